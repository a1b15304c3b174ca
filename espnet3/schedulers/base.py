"""What espnet3 needs to know of a scheduler: one small object each, and what they answer."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.processes import is_of, user_ids
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.commands import ask
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission

if TYPE_CHECKING:
    from pydantic import JsonValue

TaskKey = tuple[int, int]
"""Submission number and task."""


Wanted = Mapping[int, Sequence[int]]
"""Submission number -> some of its tasks, in order."""


class TaskState(NamedTuple):
    """What a scheduler says of one task.

    Attributes:
        state: `queued`, `running` or `ended`.
        word: the scheduler's own word for it (`TIMEOUT`), or "".
        reason: why it waits or ended, for a person, or "".
        signal: number of the signal that ended it; 0 for none, or where that is not known.
        stopped: what stopped it from outside, in words that all schedulers share (`time limit`,
            `cancelled`, `preempted`, `node failed`, `out of memory`, …), or "".
        begun: False where it has ended without ever having been started.
    """

    state: Literal["queued", "running", "ended"]
    word: str = ""
    reason: str = ""
    signal: int = 0
    stopped: str = ""
    begun: bool = True


class SubmitCall(NamedTuple):
    """How a script is handed over: the words of a command, and what it reads from its input."""

    words: list[str]
    stdin: str | None = None


class Scheduler(ABC):
    """A scheduler's dialect. Its queries are hints only: receipts are the truth.

    Everything that is true of one scheduler alone stands in its module of this package, whose
    `SCHEDULER` is its class.

    Attributes:
        name: the `env` of the parallel config.
        within: variables of which a job has at least one, and nobody else.
        inherited: prefixes of the variables that a job leaves in its environment and that must not
            leak into a job submitted from inside it.
        kept: variables with such a prefix that every client needs, or that are a user's own.
        unfit: variables of a user's own with which the submit command would do something else than
            submit what it is given.
        first_index: what the scheduler calls the first task of an array.
        can_throttle: whether an array may be told how many of its tasks run at the same time.
        can_wait: whether a job may wait for the end of another.
        own_options: options that it takes beside those of dask-jobqueue's job class.
        directive: what its directives begin with; "" where they are a mapping.
        directives: the names of those that dask-jobqueue writes, where they are a mapping.
        settled: words of directives that espnet3 decides, or that would break a submission: their
            kind (`job_name`, `log_directory`, `array`, or `stay` for a submit command that does
            not end) -> a pattern for the beginning of a word.
        prologue_in_command: whether dask-jobqueue makes prologue and worker one command.
        passes_environment: whether a job gets the submitter's environment, unless told otherwise.
        version_command: prints the scheduler's version, or that of its commands.
    """

    name: ClassVar[str]
    within: ClassVar[tuple[str, ...]] = ()
    inherited: ClassVar[tuple[str, ...]] = ()
    unfit: ClassVar[frozenset[str]] = frozenset()
    kept: ClassVar[frozenset[str]] = frozenset()
    first_index: ClassVar[int] = 0
    can_throttle: ClassVar[bool] = True
    can_wait: ClassVar[bool] = True
    own_options: ClassVar[frozenset[str]] = frozenset()
    directive: ClassVar[str] = ""
    directives: ClassVar[frozenset[str]] = frozenset()
    settled: ClassVar[Mapping[str, str]] = {}
    prologue_in_command: ClassVar[bool] = False
    no_answer: ClassVar[re.Pattern[str]] = re.compile(r"timed? ?out", re.I)
    passes_environment: ClassVar[bool] = False
    version_command: ClassVar[tuple[str, ...]] = ()

    # On a node, in the worker.

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        """This task's index in its job array, from 0; None outside an array."""
        return None

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        """This job's id, as the scheduler's commands take it."""
        return None

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        """Whether the scheduler started this job before, so that it may have left results."""
        return False

    # On the login node: submitting.

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        """The name of a submission's job, by which it is found where its id was not recorded.

        Args:
            prefix: what the user called it.
            run_id: the run's id.
            number: the submission's number.
            position: the job's position in the submission.
        """
        return f"{prefix}-{run_id}-{number:04d}-{position}"

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """dask-jobqueue's options, in the form that this scheduler takes them.

        Raises:
            ConfigError: one has no such form.
        """
        return dict(options)

    def settle(self, options: Mapping[str, JsonValue]) -> None:
        """Told the options that are really used, before anything is rendered.

        Raises:
            ConfigError: one is missing, or cannot be used here.
        """

    def walltime_seconds(self, walltime: object) -> float | None:
        """A time limit as it stands in the options, in seconds; None where it is no such.

        Hours, minutes and seconds separated by colons, or seconds alone.
        """
        return clock_seconds(walltime, lone="seconds")

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        """Arguments of the submit command for a job's name, array, throttle and log files.

        Args:
            job: the job. Its log is `job.log` with the scheduler's own index at `{index}`.
            log_directory: where the logs are written.
            array: False where jobs are wanted that are no arrays.
        """
        return []

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        """Lines at the script's beginning, for log files that no submit argument can name."""
        return []

    def after_argument(self, job_id: str) -> list[str]:
        """Submit arguments that let a job wait for the end of another, however that ends."""
        return []

    def amended(
        self, script: str, job: PlannedJob, log_directory: str, *, array: bool, after: str | None
    ) -> str:
        """dask-jobqueue's script, with what can only be said in it.

        Args:
            script: the script.
            job: its job.
            log_directory: as for `submit_arguments`.
            array: as for `submit_arguments`.
            after: id of the job to wait for.
        """
        return script

    def submit_call(
        self, command: Sequence[str], file: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        """How the script in a file is handed to the submit command.

        Args:
            command: the submit command with its arguments.
            file: path of the script.
            options: those of dask-jobqueue.
        """
        return SubmitCall([*command, file])

    def log_of_all(self, submission: Submission) -> str | None:
        """The name of a log that may say why tasks were never started, and have none."""
        return None

    async def prepare(self) -> None:
        """Find out what the submit arguments depend on. Called before they are asked for.

        Raises:
            SchedulerUnavailable: it does not answer.
        """

    @abstractmethod
    def job_ids(self, output: str) -> list[str]:
        """What may be the job's id in what the submit command printed, in order.

        Sites print banners around it, with numbers of their own.
        """

    def parse_job_id(self, output: str) -> str | None:
        """The job id in what the submit command printed; None for none, and for several.

        Of several only the queue can tell the right one: a wrong one may be another job's.
        """
        found = set(self.job_ids(output))
        return found.pop() if len(found) == 1 else None

    @abstractmethod
    async def max_array_size(self) -> int:
        """How many tasks one array may have here.

        Raises:
            SchedulerUnavailable: it does not answer.
        """

    @abstractmethod
    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> Mapping[TaskKey, TaskState]:
        """The states of the tasks that the scheduler knows, in one query for the whole run.

        A wanted task that is not in the answer is unknown to the scheduler: it ended long ago, or
        never was.

        Args:
            submissions: whose tasks.
            wanted: which of them; all where unset. The answer may hold others too.

        Raises:
            SchedulerUnavailable: it does not answer, so nothing is known.
        """

    @abstractmethod
    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        """The planned jobs of a user that the scheduler knows by their unique names.

        Raises:
            SchedulerUnavailable: it does not answer, so nothing is known.
        """

    @abstractmethod
    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        """Ask the scheduler to stop jobs; those that ended already are no error.

        Raises:
            SchedulerUnavailable: it does not answer.
        """

    # Afterwards.

    def log_file(self, job: PlannedJob, index: int) -> str:
        """The log of a job's task, by its index from 0."""
        return job.log.replace("{index}", str(index + self.first_index))

    def task_name(self, job_id: str, index: int | None) -> str:
        """A task for a person, as the scheduler's commands name it; None is no array's task."""
        return job_id if index is None else f"{job_id}_{index + self.first_index}"

    def is_submitting(self, submission: Submission) -> bool:
        """Whether a submit command of a submission lives on this host, its caller alive or dead.

        What it submits is not in the queue yet, so looking there for its name would tell nothing.
        """
        import psutil  # workers, which import the dialects, never come here

        names = {
            word
            for job in submission.jobs
            for array in (True, False)
            for word in self.submit_arguments(job, submission.log_directory, array=array)
            if job.name in word
        }
        if not names:
            return False
        users = user_ids(submission.submitter.user)
        return any(
            names.intersection(process.info["cmdline"] or ()) and is_of(process, users)
            for process in psutil.process_iter(["cmdline"])
        )

    async def version(self) -> str:
        """The scheduler's name and version, for a person.

        Raises:
            SchedulerUnavailable: its commands are not there, or fail.
        """
        if not self.version_command:
            return self.name
        answer = await ask(self.name, self.version_command)
        lines = f"{answer.out}\n{answer.err}".strip().splitlines()
        if answer.code != 0 or not lines:
            raise SchedulerUnavailable(self.name, answer.err or "does not tell its version")
        return lines[0].strip()

    async def reasons(self, job_ids: Sequence[str]) -> str:
        """What the scheduler says about why jobs wait, for a person; "" where it says nothing."""
        return ""

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for commands: without what an enclosing job left in it."""
        return {
            name: value
            for name, value in environ.items()
            if name in self.kept or not name.startswith(self.inherited or ("\0",))
        }

    def submit_environ(
        self, environ: Mapping[str, str], stated: Iterable[str] = ()
    ) -> dict[str, str]:
        """The environment for the submit command.

        Outside a job it is the user's, whose own variables the command obeys; within one it has
        nothing of what that job left.

        Args:
            environ: this process's environment.
            stated: names of the options that somebody has set, which count more than variables.
        """
        within = any(name in environ for name in self.within)
        given = self.scrubbed(environ) if within else environ
        return {name: value for name, value in given.items() if name not in self.unfit}
