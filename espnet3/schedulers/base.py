"""What espnet3 needs to know of a scheduler: one small object each, and what they answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

from espnet3.specs.models import AcceptedJob, AcceptedJobs, PlannedJob, Submission

TaskKey = tuple[int, int]
"""Submission number and task."""


class TaskState(NamedTuple):
    """What a scheduler says of one task.

    Attributes:
        state: `queued`, `running` or `ended`.
        word: the scheduler's own word for it (`TIMEOUT`), or "".
        reason: why it waits or ended, for a person, or "".
        signal: number of the signal that ended it; 0 for none, or where that is not known.
    """

    state: Literal["queued", "running", "ended"]
    word: str = ""
    reason: str = ""
    signal: int = 0


class KnownSubmission(NamedTuple):
    """A submission together with the jobs known for it; `recorded` is None before they are."""

    submission: Submission
    recorded: AcceptedJobs | None

    def job_ids(self) -> dict[str, str]:
        """Unique job name -> scheduler id."""
        return {job.name: job.job_id for job in self.recorded.jobs} if self.recorded else {}


class Scheduler(ABC):
    """A scheduler's dialect. Its queries are hints only: receipts are the truth.

    Attributes:
        name: the `env` of the parallel config.
        inherited: prefixes of the variables that a job leaves in its environment and that must not
            leak into a job submitted from inside it.
        kept: variables with such a prefix that every client needs.
        submit_arguments: for every submit command, so that its answer can be parsed.
    """

    name: ClassVar[str]
    inherited: ClassVar[tuple[str, ...]] = ()
    kept: ClassVar[frozenset[str]] = frozenset()
    submit_arguments: ClassVar[tuple[str, ...]] = ()

    # On a node, in the worker.

    @abstractmethod
    def array_index(self, environ: Mapping[str, str]) -> int | None:
        """This task's index in its job array, from 0; None outside an array."""

    @abstractmethod
    def job_id(self, environ: Mapping[str, str]) -> str | None:
        """This job's id, as the scheduler's commands take it."""

    @abstractmethod
    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        """Whether the scheduler started this job before, so that it may have left results."""

    # On the login node.

    @abstractmethod
    def array_arguments(self, job: PlannedJob) -> list[str]:
        """Submit arguments that make a job an array, indices from 0, at most `throttle` alive."""

    @abstractmethod
    def naming_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        """Submit arguments for the job's unique name and its log files."""

    def log_redirection(self, job: PlannedJob, log_directory: str) -> list[str]:
        """Lines at the script's beginning, for log files that no submit argument can name."""
        return []

    @abstractmethod
    def after_argument(self, job_id: str) -> list[str]:
        """Submit arguments that let a job wait for the end of another, however that ends."""

    @abstractmethod
    def parse_job_id(self, output: str) -> str | None:
        """The job id in what the submit command printed."""

    @abstractmethod
    async def max_array_size(self) -> int:
        """How many tasks one array may have here.

        Raises:
            SchedulerUnavailable: it does not answer.
        """

    @abstractmethod
    async def query(self, submissions: Sequence[KnownSubmission]) -> dict[TaskKey, TaskState]:
        """The states of all tasks that the scheduler knows, in one query for the whole run.

        A task that is not in the answer is unknown to the scheduler: it ended long ago, or never
        was.

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

    def task_name(self, job_id: str, index: int | None) -> str:
        """A task for a person, as the scheduler's commands name it; None is no array's task."""
        return job_id if index is None else f"{job_id}_{index}"

    def is_submitting(self, submission: Submission) -> bool:
        """Whether a submit command of a submission lives on this host, its caller alive or dead.

        What it submits is not in the queue yet, so looking there for its name would tell nothing.
        """
        import psutil  # workers, which import the dialects, never come here

        names = {
            word
            for job in submission.jobs
            for word in self.naming_arguments(job, submission.log_directory, array=True)
            if job.name in word
        }
        if not names:
            return False
        lines = (process.info["cmdline"] for process in psutil.process_iter(["cmdline"]))
        return any(names.intersection(words or ()) for words in lines)

    async def reasons(self, job_ids: Sequence[str]) -> str:
        """What the scheduler says about why jobs wait, for a person; "" where it says nothing."""
        return ""

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The environment for a submit command: without what an enclosing job left in it."""
        return {
            name: value
            for name, value in environ.items()
            if name in self.kept or not name.startswith(self.inherited or ("\0",))
        }
