"""The persisted models: everything that a run directory holds as JSON.

Field by field they are documented in `docs/format.md`; their JSON Schema is in `schemas/`.
`encode` and `decode`, of `espnet3.specs.codec`, are the only ways in and out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from espnet3.errors import UsageError
from espnet3.specs.base import NestedModel, PersistedModel
from espnet3.specs.codec import decode, encode
from espnet3.specs.items import ItemList, ItemRange, Items, count_batches, shard_bounds
from espnet3.specs.nested import (
    AcceptedJob,
    Argument,
    Assignment,
    AttemptName,
    Checksum,
    ClassReference,
    Count,
    ErrorRecord,
    Generation,
    PlainJson,
    PlannedJob,
    ProcessIdentity,
    ProcessState,
    ProviderSpec,
    Rank,
    RestoredValue,
    ResultName,
    ResultPart,
    Text,
)

MAX_SHARDS = 1_000_000  # so that a number in a file cannot keep a reader busy for ever


def now() -> datetime:
    """The time here, in UTC; times of two hosts are never compared, only shown."""
    return datetime.now(UTC)


class RunSpec(PersistedModel):
    """What all shards of a run share (`run.json`). It exists if and only if the plan is whole."""

    title: ClassVar[str] = "run"
    version: ClassVar[int] = 2
    MOST_BYTES: ClassVar[int] = 1 << 30  # the provider's arguments may be of any size
    schema_version: Literal[1, 2] = 2  # type: ignore[assignment]  # pydantic reads the nearest

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    created: AwareDatetime
    fingerprint: Checksum

    runner: ClassReference
    provider: ProviderSpec
    n_inputs: Annotated[int, Field(ge=1)]
    items_digest: str
    batch_size: Annotated[int, Field(ge=1)] | None = None
    world_size: Annotated[int, Field(ge=1)]
    results: Literal["json", "pickle"] = "json"
    on_error: Literal["stop", "record"] = "stop"
    checkpoint_every: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 30.0

    python: str
    working_directory: str
    sys_path: list[str]
    environment_variables: dict[str, str]
    versions: dict[str, str]
    git_commit: str | None
    parallel: dict[str, PlainJson]

    process: ProcessState | None = None
    assignments: list[Assignment] = []

    def arguments(self) -> list[Argument]:
        """All values that provider and variables are made of."""
        return [*self.provider.given(), *(variable.value for variable in self.assignments)]

    def references(self) -> Iterator[ClassReference]:
        """All classes and modules that a worker imports."""
        yield from (self.runner, self.provider.cls)
        if self.process is not None and self.process.main is not None:
            yield self.process.main
        yield from (variable.target for variable in self.assignments)
        notes = (note for argument in self.arguments() for note in argument.restored)
        yield from (note.cls for note in notes if note.cls is not None)

    @model_validator(mode="after")
    def _version_has_the_fields(self) -> Self:
        given = [argument for argument in self.provider.given() if argument.restored]
        if self.schema_version == 1 and (
            self.process or self.assignments or self.provider.attributes or given
        ):
            raise ValueError("schema_version: is 1, and there are fields of version 2")
        return self

    @property
    def n_items(self) -> int:
        """How many items the run has; with `batch_size`, lists of inputs are the items."""
        return count_batches(self.n_inputs, self.batch_size)

    def bounds_of(self, rank: int) -> tuple[int, int]:
        """Positions of a shard's first item and of the item after its last one."""
        return shard_bounds(rank, self.world_size, self.n_items)

    def n_items_of(self, rank: int) -> int:
        """How many items a shard has."""
        first, last = self.bounds_of(rank)
        return last - first

    def require_rank(self, rank: int, run_dir: str) -> None:
        """Raise UsageError where the run, which lies in `run_dir`, has no such shard."""
        if not 0 <= rank < self.world_size:
            raise UsageError(f"rank {rank}: {run_dir} has shards 0 to {self.world_size - 1}")

    @model_validator(mode="after")
    def _shards_have_items(self) -> Self:
        most = min(MAX_SHARDS, self.n_items)
        if self.world_size > most:
            raise ValueError(f"world_size: is {self.world_size}, but can be {most} at most")
        return self

    PLAN_FIELDS: ClassVar[tuple[str, ...]] = (
        "runner",
        "provider",
        "n_inputs",
        "items_digest",
        "batch_size",
        "world_size",
        "results",
        "on_error",
        "assignments",
    )


class ShardSpec(PersistedModel):
    """An ordered slice of the items (`shards/000042.json`)."""

    title: ClassVar[str] = "shard"
    MOST_BYTES: ClassVar[int] = 1 << 30  # ten million items and more

    rank: Rank
    world_size: Annotated[int, Field(ge=1)]
    run: str
    fingerprint: Checksum
    items: Items


class Submission(PersistedModel):
    """The intent to hand shards to a scheduler, written before any job (`submissions/0001.json`).

    Task `t` of the submission computes the ranks at `t * shards_per_job` and after in `ranks`. Of
    attempts of submissions before `errors_from_submission`, recorded errors are computed again.
    `submit_command` and `script` are those of the first job.
    """

    title: ClassVar[str] = "submission"
    MOST_BYTES: ClassVar[int] = 1 << 29  # a million ranks, each in a job of its own

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    submitter: ProcessIdentity
    scheduler: str
    n_workers: Annotated[int, Field(ge=1)]
    shards_per_job: Annotated[int, Field(ge=1)]
    options: dict[str, PlainJson]
    parallel: dict[str, PlainJson]
    worker_command: list[str]
    submit_command: list[str]
    script: str
    log_directory: str
    max_errors: Count | None = None
    errors_from_submission: Count = 0
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
            raise ValueError(f"jobs: hold {first} tasks, not {self.n_tasks}")
        return self

    def on_error(self, run: RunSpec) -> Literal["stop", "record"]:
        """What a failing item of this submission does: as a resume set it, else as in the plan."""
        said = self.parallel.get("on_error")
        if said == "record":
            return "record"
        return "stop" if said == "stop" else run.on_error

    @property
    def n_tasks(self) -> int:
        """How many tasks the submission has."""
        return -(-len(self.ranks) // self.shards_per_job)

    def ranks_of(self, task: int) -> list[int]:
        """The ranks that a task computes, in order; none where there is no such task."""
        first = task * self.shards_per_job
        ranks: Any = self.ranks.plain()[first : first + self.shards_per_job]
        return list(ranks)

    def places(self, but: Container[int] = ()) -> Iterator[tuple[int, int, PlannedJob]]:
        """Each rank of the submission with the task that computes it, and that task's job.

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
        """The task that computes a rank, and its job; None where the submission lacks the rank."""
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
    """Somebody asked to stop a submission (`submissions/0001.cancelled.json`)."""

    title: ClassVar[str] = "cancellation"

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    by: ProcessIdentity


class AttemptRecord(PersistedModel):
    """One event of one execution of one shard (`attempts/000042.<attempt>.<event>.json`)."""

    title: ClassVar[str] = "attempt"

    event: Literal["started", "failed", "interrupted"]
    rank: Rank
    attempt: AttemptName
    generation: Generation = 1
    task: Count | None
    job_id: str | None
    host: str
    pid: Annotated[int, Field(ge=1)]
    time: AwareDatetime
    elapsed: Annotated[float, Field(ge=0)] = 0.0
    cause: Text = ""
    error: ErrorRecord | None = None
    item: JsonValue = None
    items_done: Count = 0


class Receipt(PersistedModel):
    """The record that makes a shard done (`receipts/000042.json`), until it is withdrawn."""

    title: ClassVar[str] = "receipt"
    MOST_BYTES: ClassVar[int] = 1 << 26  # a part for each checkpoint, on object stores

    rank: Rank
    attempt: AttemptName
    fingerprint: Checksum
    records: Annotated[int, Field(ge=1)]
    errors: Count
    salvaged: Count
    parts: Annotated[list[ResultPart], Field(min_length=1)]
    host: str
    created: AwareDatetime

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Self:
        position = 0
        for part in self.parts:
            if part.first != position or not part.file.startswith(f"{self.rank:06d}."):
                raise ValueError(f"parts: {part.file} does not follow at position {position}")
            position += part.records
        if position != self.records:
            raise ValueError(f"parts: hold {position} records, not {self.records}")
        return self


class Withdrawal(PersistedModel):
    """From here on a receipt counts no more (`withdrawals/000042.1.json`).

    `files` did not match the receipt. Recorded errors count from attempts of `from_submission` on;
    it is 0 unless failed items are to be computed again.
    """

    title: ClassVar[str] = "withdrawal"
    MOST_BYTES: ClassVar[int] = 1 << 26

    rank: Rank
    generation: Generation
    created: AwareDatetime
    by: ProcessIdentity
    reason: Literal["damaged", "failed-items"]
    cause: Text
    files: list[ResultName] = []
    from_submission: Count = 0

    @model_validator(mode="after")
    def _files_are_the_shards(self) -> Self:
        for file in self.files:
            if not file.startswith(f"{self.rank:06d}."):
                raise ValueError(f"files: {file} is of another shard")
        return self


PERSISTED: tuple[type[PersistedModel], ...] = (
    RunSpec,
    ShardSpec,
    Submission,
    AcceptedJobs,
    Cancellation,
    AttemptRecord,
    Receipt,
    Withdrawal,
)

__all__ = [
    "PERSISTED",
    "AcceptedJob",
    "AcceptedJobs",
    "Argument",
    "Assignment",
    "AttemptRecord",
    "Cancellation",
    "ClassReference",
    "ErrorRecord",
    "ItemList",
    "ItemRange",
    "NestedModel",
    "PersistedModel",
    "PlannedJob",
    "ProcessIdentity",
    "ProcessState",
    "ProviderSpec",
    "Receipt",
    "RestoredValue",
    "ResultPart",
    "RunSpec",
    "ShardSpec",
    "Submission",
    "decode",
    "encode",
    "now",
]
