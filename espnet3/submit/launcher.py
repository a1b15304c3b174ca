"""How a submission's jobs are started; one launcher for each kind of environment."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from typing import ClassVar, NamedTuple

from pydantic import JsonValue

from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.submit.plan import JobShape


class Rendered(NamedTuple):
    """A job as it will be submitted: its script and the command that submits it.

    Of a finisher `when` says for what it waits; it is "" for the others.
    """

    script: str
    command: list[str]
    when: str = ""


class Launcher(ABC):
    """Starts the jobs of submissions.

    Making one validates the options; it raises ConfigError before anything is written.

    Attributes:
        options: the options that are really used, defaults of the site included.
        python: the interpreter's command, as it stands in a script.
        log_directory: where the options want the jobs' logs, or None.
        without_nodes: host names of nodes that its jobs are kept away from, where its scheduler
            can do that.
        records_jobs: whether what is launched writes the record of the jobs itself.
    """

    options: dict[str, JsonValue]
    python: str
    log_directory: str | None = None
    without_nodes: Sequence[str] = ()
    records_jobs: ClassVar[bool] = False

    async def require_reachable(self) -> None:
        """Ask what `render` would ask, so that nothing is written where there is no answer.

        Raises:
            SchedulerUnavailable: there is none.
        """

    @abstractmethod
    async def max_array_size(self) -> int:
        """How many tasks one array may have here."""

    @abstractmethod
    def job_name_prefix(self) -> str:
        """The name that jobs begin with."""

    @abstractmethod
    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        """Cut tasks into jobs."""

    def require_finishers(self) -> None:
        """Refuse to queue finishers where that cannot be done.

        Raises:
            ConfigError: no job can wait for others here.
        """

    @abstractmethod
    async def render_finisher(self, finisher: Finisher) -> Rendered:
        """Render the job of a finisher without submitting it.

        Raises:
            SchedulerUnavailable: the scheduler does not tell what its form depends on.
        """

    @abstractmethod
    async def launch_finisher(self, finisher: Finisher) -> str:
        """Start the job of a finisher, whose intent is on disk.

        Returns:
            Its id.

        Raises:
            SubmissionRefused, SchedulerUnavailable: as `launch`.
        """

    @abstractmethod
    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        """Render a job without submitting it.

        Raises:
            SchedulerUnavailable: the scheduler does not tell what its form depends on.
        """

    @abstractmethod
    def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        """Start the jobs of a submission, each when it is asked for.

        Whoever asks records them, but where `records_jobs` is set.

        Args:
            submission: the intent, which is on disk.

        Yields:
            Each job as soon as the scheduler has accepted it, in the submission's order.

        Raises:
            SubmissionRefused: the scheduler refused a job.
            SchedulerUnavailable: it gave no answer within the config's `submit_timeout`, and the
                job is not in the queue.
        """
