"""The persisted models of a submission; see `espnet3.specs.models`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from espnet3.specs.base import PersistedModel
from espnet3.specs.items import ItemRange, Items
from espnet3.specs.nested import (
    MAX_SHARDS,
    AcceptedJob,
    Count,
    PlainJson,
    PlannedJob,
    ProcessIdentity,
    QueuedAhead,
    SkippedItem,
    Text,
)
from espnet3.text import counted


class Submission(PersistedModel):
    """The intent to hand shards to a scheduler, written before any job (`submissions/0001.json`).

    Task `t` of the submission computes the ranks at `t * shards_per_job` and after in `ranks`; in a
    `dynamic` one there are `n_workers` tasks, which claim those of `ranks` that are free. Of
    attempts of submissions before `errors_from_submission`, recorded errors are computed again.
    `submit_command` and `script` are those of the first job. `code` is the number of the record of
    its source files. `ahead` is set where it is a wave that was queued up front. `usage` says
    whether its workers ask GPUs how busy they are. Each attempt hands its first `one_by_one`
    results to the file system before the next item begins. `skip` are items for which `forward` is
    not called (decision 0026). `typed` is the command line of the process that submitted, without
    what looks secret.
    """

    title: ClassVar[str] = "submission"
    version: ClassVar[int] = 5
    MOST_BYTES: ClassVar[int] = 1 << 29  # a million ranks, each in a job of its own
    schema_version: Literal[1, 2, 3, 4, 5] = 5  # type: ignore[assignment]  # pydantic reads the nearest

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    submitter: ProcessIdentity
    scheduler: str
    n_workers: Annotated[int, Field(ge=1)]
    shards_per_job: Annotated[int, Field(ge=1)]
    schedule: Literal["static", "dynamic"] = "static"
    options: dict[str, PlainJson]
    parallel: dict[str, PlainJson]
    worker_command: list[str]
    submit_command: list[str]
    script: str
    typed: Text = ""
    log_directory: str
    max_errors: Count | None = None
    errors_from_submission: Count = 0
    code: Annotated[int, Field(ge=1)] | None = None
    usage: bool = True
    one_by_one: Count = 0
    skip: list[SkippedItem] = []
    ahead: QueuedAhead | None = None
    ranks: Items
    jobs: Annotated[list[PlannedJob], Field(min_length=1)]

    @model_validator(mode="after")
    def _ranks_are_ranks(self) -> Self:
        if isinstance(self.ranks, ItemRange):
            valid = self.ranks.start >= 0
        else:
            valid = all(type(rank) is int and rank >= 0 for rank in self.ranks.values)
        if not valid:
            raise ValueError("ranks: every rank is an integer from 0")
        if not 0 < len(self.ranks) <= MAX_SHARDS:
            raise ValueError(f"ranks: are {len(self.ranks)}, not 1 to {MAX_SHARDS}")
        return self

    @model_validator(mode="after")
    def _jobs_hold_all_tasks(self) -> Self:
        first = 0
        for position, job in enumerate(self.jobs):
            if job.first_task != first or (job.after is not None and job.after >= position):
                raise ValueError(f"jobs.{position}: does not follow the jobs before it")
            first += job.n_tasks
        if first != self.n_tasks:
            raise ValueError(f"jobs: hold {counted(first, 'task')}, not {self.n_tasks}")
        return self

    def on_error(self, of_plan: Literal["stop", "record"]) -> Literal["stop", "record"]:
        """What a failing item of this submission does: as a resume set it, else as in the plan."""
        said = self.parallel.get("on_error")
        if said == "record":
            return "record"
        return "stop" if said == "stop" else of_plan

    @property
    def finishes_itself(self) -> bool:
        """Whether nobody watches: a finisher waits for the end of the jobs (decision 0021)."""
        return isinstance(self.parallel.get("finish"), dict)

    @property
    def n_tasks(self) -> int:
        """How many tasks the submission has."""
        if self.schedule == "dynamic":
            return min(self.n_workers, len(self.ranks))
        return -(-len(self.ranks) // self.shards_per_job)

    def ranks_of(self, task: int) -> list[int]:
        """The ranks that a task may compute, in order; none where there is no such task."""
        if self.schedule == "dynamic":
            return [*self.ranks.plain()] if 0 <= task < self.n_tasks else []
        first = task * self.shards_per_job
        ranks: Any = self.ranks.plain()[first : first + self.shards_per_job]
        return list(ranks)

    def places(self, but: Container[int] = ()) -> Iterator[tuple[int, int, PlannedJob]]:
        """Each rank of a static submission with the task that computes it, and that task's job.

        Args:
            but: ranks that are left out.
        """
        ranks: Any = self.ranks.plain()
        size = self.shards_per_job
        for job in self.jobs:
            first = job.first_task * size
            own = ranks[first : first + job.n_tasks * size]
            for position, rank in enumerate(own, first):
                if rank not in but:
                    yield rank, position // size, job

    def place_of(self, rank: int) -> tuple[int, PlannedJob] | None:
        """The task that computes a rank, and its job; None where the submission lacks the rank.

        In a dynamic one only claims tell; None there.
        """
        if self.schedule == "dynamic":
            return None
        try:
            task = self.ranks.plain().index(rank) // self.shards_per_job
        except ValueError:
            return None
        return task, self.job_of(task)

    def job_of(self, task: int) -> PlannedJob:
        """The job that a task belongs to."""
        return self.jobs[bisect_right(self.jobs, task, key=lambda job: job.first_task) - 1]


# What `refused` says of a submission that somebody ended, as by Ctrl-C.
CUT_SHORT = "it was cut short"


class AcceptedJobs(PersistedModel):
    """What the scheduler made of a submission, written after it (`submissions/0001.jobs.json`).

    `refused` holds the scheduler's words where it did not accept every job.
    """

    title: ClassVar[str] = "accepted-jobs"
    MOST_BYTES: ClassVar[int] = 1 << 28

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    recorded_by: ProcessIdentity
    jobs: list[AcceptedJob]
    refused: str | None = None


class Cancellation(PersistedModel):
    """Somebody asked to stop a submission (`submissions/0001.cancelled.json`).

    `cause` says why where a worker did, and is empty where a person did.
    """

    title: ClassVar[str] = "cancellation"
    version: ClassVar[int] = 2
    schema_version: Literal[1, 2] = 2  # type: ignore[assignment]  # pydantic reads the nearest

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    by: ProcessIdentity
    cause: Text = ""
