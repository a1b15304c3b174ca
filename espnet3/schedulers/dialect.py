"""What is true of one batch system alone: data and pure functions, without I/O.

A dialect never runs a command. Where it has to ask, its method is a generator that yields commands,
is sent their answers and returns what it has learnt; `BatchSystem` runs it. A test feeds it text.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeVar

from espnet3._structs import Struct
from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import Conventions
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.excluded_nodes import host_names
from espnet3.schedulers.job_keys import JobKeys, Row
from espnet3.specs.models import PlannedJob

if TYPE_CHECKING:
    from pydantic import JsonValue

T = TypeVar("T")


class Command(Struct):
    """A command that the engine is to run.

    Attributes:
        words: its words; no shell sees them.
        timeout: seconds after which it is ended.
        strict: whether its failure is the scheduler's: what `Dialect.problem` finds in its answer
            is raised. Otherwise the answer is given to the dialect as it is. That a command is not
            there, or gives no answer, is thrown into the dialect in either case.
    """

    words: Sequence[str]
    timeout: float = 60.0
    strict: bool = True


Dialogue: TypeAlias = Generator[Command, Answer, T]
"""Yields commands, is sent their answers, returns what it has learnt."""


def asking(*words: str, timeout: float = 60.0, strict: bool = True) -> Dialogue[Answer]:
    """A dialogue of one command, which is a step of others with `yield from`.

    Args:
        words: the command's.
        timeout: as for `Command`.
        strict: as for `Command`.
    """
    return (yield Command(words, timeout, strict))


class Task(Struct):
    """What a job's environment tells its worker.

    Attributes:
        array_index: of this task in its job array, from 0; None outside an array.
        job_id: this job's id, as the scheduler's commands take it; None outside a job.
        restarted: whether the job may have been started before, and have left results.
    """

    array_index: int | None = None
    job_id: str | None = None
    restarted: bool = False


class JobRequest(Struct):
    """A job that is to be submitted.

    Attributes:
        job: the job. Its log is `job.log` with the scheduler's own index at `{index}`.
        log_directory: where the logs are written.
        array: False where jobs are wanted that are no arrays.
        after: ids of the jobs whose ends, of whatever kind, it waits for, as `Dialect.awaited`
            has them.
        options: those of dask-jobqueue that are really used.
        without_nodes: nodes that it must not run on, as `Dialect.node_names` has them, where
            `Dialect.can_exclude`; those that the options exclude count as well.
    """

    job: PlannedJob
    log_directory: str
    array: bool = True
    after: Sequence[str] = ()
    options: Mapping[str, JsonValue] = {}
    without_nodes: Sequence[str] = ()


class JobParts(Struct):
    """What a job's script and its submit command have for it, beside what dask-jobqueue makes.

    Attributes:
        arguments: of the submit command: the job's name, array, throttle, logs, and whom it waits
            for.
        prologue: lines at the script's beginning, for what no argument can say.
        amend: makes the last changes to the script that dask-jobqueue has made.
    """

    arguments: list[str]
    prologue: Sequence[str] = ()
    amend: Callable[[str], str] = str


class SubmitCall(Struct):
    """How a script is handed over: the words of a command, and what it reads from its input."""

    words: list[str]
    stdin: str | None = None


class Dialect(Conventions, ABC):
    """One batch system. `docs/adding-a-batch-system.md` goes through it step by step.

    Its attributes are those of `Conventions`, and these.

    Attributes:
        within: variables of which a job has at least one, and nobody else.
        kept: variables with such a prefix that every client needs, or that are a user's own.
        unfit: variables of a user's own with which the submit command would do something else than
            submit what it is given.
        query_variables: what commands other than the submit command get in their environment.
        can_throttle: whether an array may be told how many of its tasks run at the same time.
        can_wait: whether a job may wait for the ends of others.
        can_exclude: whether a job may be kept away from nodes.
        own_options: options that it takes beside those of dask-jobqueue's job class.
        directive: what its directives begin with; "" where they are a mapping.
        directives: the names of those that dask-jobqueue writes, where they are a mapping.
        reserved: words of directives that espnet3 decides, or that would break a submission: their
            kind (`job_name`, `log_directory`, `array`, or `stay` for a submit command that does
            not end) -> a pattern for the beginning of a word.
        prologue_in_command: whether dask-jobqueue makes prologue and worker one command.
        gone: found in each line that complains of a job which has ended, or is about to.
        version_command: prints the scheduler's version, or that of its commands.
    """

    within: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[frozenset[str]] = frozenset()
    unfit: ClassVar[frozenset[str]] = frozenset()
    query_variables: ClassVar[Mapping[str, str]] = {}
    can_throttle: ClassVar[bool] = True
    can_wait: ClassVar[bool] = True
    can_exclude: ClassVar[bool] = False
    own_options: ClassVar[frozenset[str]] = frozenset()
    directive: ClassVar[str] = ""
    directives: ClassVar[frozenset[str]] = frozenset()
    reserved: ClassVar[Mapping[str, str]] = {}
    prologue_in_command: ClassVar[bool] = False
    gone: ClassVar[re.Pattern[str]] = re.compile(r"(?!)")
    version_command: ClassVar[tuple[str, ...]]

    # In a job.

    @abstractmethod
    def task(self, environ: Mapping[str, str]) -> Task:
        """What a job's environment tells its worker."""

    # Names, options and the environment.

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        """dask-jobqueue's options, in the form that this scheduler takes them.

        Raises:
            ConfigError: one has no such form.
        """
        return dict(options)

    def check(self, options: Mapping[str, JsonValue]) -> None:
        """Refuse options that are really used, and with which no job could be asked for here.

        Raises:
            ConfigError: one is missing, or cannot be used here.
        """

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for commands: without what an enclosing job left in it."""
        return {
            name: value
            for name, value in environ.items()
            if name in self.kept or not name.startswith(self.inherited or ("\0",))
        }

    def query_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for all commands but the submit command."""
        return {**self.scrubbed(environ), **self.query_variables}

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

    # Submitting.

    def identify(self) -> Dialogue[Dialect]:
        """Which dialect is spoken here, where one `env` has several; itself where it has not.

        Asked for before `request`, `look`, `find` and `reasons`, once for each engine.
        """
        yield from ()
        return self

    def awaited(self, job_ids: Sequence[str]) -> Dialogue[Sequence[str]]:
        """The ids that a job names which waits for the ends of jobs, arrays or not.

        These, unless an array's own id is not enough.
        """
        yield from ()
        return job_ids

    def node_names(
        self, hosts: Sequence[str], environ: Mapping[str, str]
    ) -> Dialogue[Sequence[str]]:
        """What the scheduler calls the nodes with these host names.

        Without those that are no such names, and those that a job may not name.

        Args:
            hosts: the names, which come from records of workers.
            environ: as for `array_limit`.
        """
        yield from ()
        return host_names(hosts)

    @abstractmethod
    def request(self, request: JobRequest) -> JobParts:
        """What a job's script and its submit command have for it."""

    def submit_call(
        self, command: Sequence[str], file: str, script: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        """How a script is handed to the submit command.

        Args:
            command: the submit command with its arguments.
            file: path of the script.
            script: what stands in it.
            options: those of dask-jobqueue.
        """
        return SubmitCall([*command, file])

    @abstractmethod
    def job_ids(self, output: str) -> list[str]:
        """What may be the job's id in what the submit command printed, in order.

        Sites print banners around it, with numbers of their own.
        """

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        """How many tasks one array may have here.

        Args:
            environ: this process's environment, where it may say which cluster is meant.
        """
        yield from ()
        return 1000

    # Asking.

    def problem(self, answer: Answer) -> str | None:
        """What an answer complains of, without complaints of jobs that are gone; None for nothing.

        Example:
            >>> from espnet3.schedulers import get_dialect
            >>> get_dialect("pbs").problem(Answer(35, "", "qdel: Job has finished 7"))
        """
        said = [line for line in answer.err.splitlines() if line.strip()]
        problems = [line for line in said if not self.gone.search(line)]
        if answer.code != 0 and (problems or not said):
            return "\n".join(problems) or answer.out or f"exit code {answer.code}"
        return None

    def require(self, answer: Answer) -> Answer:
        """The answer to a command that was not strict, as if it had been.

        Raises:
            SchedulerUnavailable: it complains of something.
        """
        words = self.problem(answer)
        if words is not None:
            raise SchedulerUnavailable(self.name, words)
        return answer

    @abstractmethod
    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        """What is known of jobs.

        Those in `keys.by_id` are looked for by their ids, `keys.unrecorded_names()` by their names
        among the jobs of `keys.users`. Of what several rows say about a task the last one counts.
        Rows of other jobs may be among them; what is forgotten or was never there has no row.
        """

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        """The planned jobs of a user that the scheduler knows: unique name -> id.

        By `look`, unless there is a cheaper question, or one that reaches further.
        """
        keys = JobKeys.of_names(planned, user)
        rows = yield from self.look(keys)
        return {row.name: row.job_id for row in rows if row.name in keys.by_name}

    def find_logging_to(self, folder: str, user: str) -> Dialogue[dict[str, str]]:
        """The name and id of each live job of a user whose log goes to a folder.

        Only where its commands tell that of all jobs at once; none elsewhere.
        """
        yield from ()
        return {}

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        """Why jobs of a user wait, for a person, in order.

        By `look`, unless there is a question that tells more.
        """
        rows = yield from self.look(JobKeys.of_ids(job_ids, user))
        words = {row.state.reason for row in rows if row.state.state == "queued"}
        return sorted(words - {""})

    @abstractmethod
    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        """Ask to stop jobs; those that ended already are no error."""
