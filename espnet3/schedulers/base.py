"""What espnet3 needs to know of a scheduler, and what it answers."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from espnet3._structs import Struct
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission

TaskKey = tuple[int, int]
"""Submission number and task."""


Wanted = Mapping[int, Sequence[int]]
"""Submission number -> some of its tasks, in order."""


class TaskState(Struct):
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


class Conventions:
    """What schedulers and their dialects share: the usual, where one does not say otherwise.

    Attributes:
        name: the `env` of the parallel config.
        inherited: prefixes of the variables that a job leaves in its environment and that must not
            leak into a job submitted from inside it.
        first_index: what the scheduler calls the first task of an array.
        passes_environment: whether a job gets the submitter's environment, unless told otherwise.
        no_answer: found in what its commands say where they got no answer from its server.
    """

    name: str
    inherited: tuple[str, ...] = ()
    first_index: int = 0
    passes_environment: bool = False
    no_answer: re.Pattern[str] = re.compile(r"timed? ?out", re.IGNORECASE)

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        """The name of a submission's job, by which it is found where its id was not recorded.

        Args:
            prefix: what the user called it.
            run_id: the run's id.
            number: the submission's number.
            position: the job's position in the submission.
        """
        return plain_name(prefix, run_id, number, position)

    def walltime_seconds(self, walltime: object) -> float | None:
        """A time limit as it stands in the options, in seconds; None where it is no such.

        Hours, minutes and seconds separated by colons, or seconds alone.
        """
        return clock_seconds(walltime, lone="seconds")

    def task_name(self, job_id: str, index: int | None) -> str:
        """A task for a person, as the scheduler's commands name it; None for a single job."""
        return job_id if index is None else f"{job_id}_{index + self.first_index}"


class Scheduler(Conventions, ABC):
    """A scheduler, as the rest of espnet3 sees it. What it tells is a hint: receipts are the truth.

    Its attributes are those of `Conventions`.
    """

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

    # On the login node.

    def job_ids(self, output: str) -> list[str]:
        """What may be the job's id in what the submit command printed, in order."""
        return []

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

    async def find_of(self, submission: Submission, user: str) -> list[AcceptedJob]:
        """As `find`, of the jobs of a submission, which may tell where to look."""
        return await self.find(submission.jobs, user)

    async def find_working_in(self, run_dir: str, user: str) -> list[AcceptedJob]:
        """Live jobs of a user that work in a run directory, as the scheduler itself tells.

        None where it does not: a name alone would be a guess.

        Args:
            run_dir: its absolute path. There may be nothing by now.
            user: whose jobs.

        Raises:
            SchedulerUnavailable: it does not answer, so nothing is known.
        """
        return []

    @abstractmethod
    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        """Ask the scheduler to stop jobs; those that ended already are no error.

        Raises:
            SchedulerUnavailable: it does not answer.
        """

    async def reasons(self, job_ids: Sequence[str]) -> str:
        """What the scheduler says about why jobs wait, for a person; "" where it says nothing."""
        return ""

    async def machines(self, options: Mapping[str, object]) -> dict[str, str]:
        """Machines that the options name -> what is wrong with each, or ""."""
        return {}

    async def version(self) -> str:
        """The scheduler's name and version, for a person.

        Raises:
            SchedulerUnavailable: its commands are not there, or fail.
        """
        return self.name

    def is_submitting(self, submission: Submission) -> bool:
        """Whether a submit command of a submission lives on this host, its caller alive or dead.

        What it submits is not in the queue yet, so looking there for its name would tell nothing.
        """
        return False

    def log_file(self, job: PlannedJob, index: int) -> str:
        """The log of a job's task, by its index from 0."""
        return job.log.replace("{index}", str(index + self.first_index))

    def log_of_all(self, job: PlannedJob) -> str | None:
        """The name of a log that may say why a job's tasks were never started, and have none."""
        return None

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment without what an enclosing job left in it."""
        return dict(environ)

    def submit_environ(
        self, environ: Mapping[str, str], stated: Iterable[str] = ()
    ) -> dict[str, str]:
        """The environment for the submit command.

        Args:
            environ: this process's environment.
            stated: names of the options that somebody has set, which count more than variables.
        """
        return dict(environ)


def plain_name(prefix: str, run_id: str, number: int, position: int) -> str:
    """A job's unique name; see `Conventions.unique_name`.

    Example:
        >>> plain_name("decode", "a1b2", 1, 0)
        'decode-a1b2-0001-0'
    """
    return f"{prefix}-{run_id}-{number:04d}-{position}"
