"""The persisted models: everything that a run directory holds as JSON, format 1.

Field by field they are documented in `docs/format.md`; their JSON Schema is in `schemas/`.
`encode` and `decode`, of `espnet3.specs.codec`, are the only ways in and out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, Self

from espnet3.specs.base import (
    AfterValidator,
    AwareDatetime,
    Field,
    JsonValue,
    Part,
    PersistedModel,
    model_validator,
)
from espnet3.specs.codec import decode, encode
from espnet3.specs.items import ItemList, ItemRange, Items, count_batches
from espnet3.specs.plain import finite

MAX_SHARDS = 1_000_000  # so that a number in a file cannot keep a reader busy for ever

ATTEMPT = r"[0-9]{4,}-[0-9a-f]{12}"


def _utf8(text: str) -> str:
    """Python holds bytes of foreign file names as lone surrogates, which JSON cannot hold."""
    return text.encode("utf-8", "backslashreplace").decode()


Text = Annotated[str, AfterValidator(_utf8)]
PlainJson = Annotated[JsonValue, AfterValidator(finite)]
Rank = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Generation = Annotated[int, Field(ge=1)]
AttemptName = Annotated[str, Field(pattern=rf"^{ATTEMPT}$")]
ResultName = Annotated[str, Field(pattern=rf"^[0-9]{{6,}}\.{ATTEMPT}\.[0-9]+\.jsonl$")]
Checksum = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


def now() -> datetime:
    """The time here, in UTC; times of two hosts are never compared, only shown."""
    return datetime.now(UTC)


class ClassReference(Part):
    """Where a worker finds a class again.

    `file` is set where the class was defined in the submitted script itself, which has no module
    name that can be imported.
    """

    module: str
    qualname: str
    file: str | None = None

    def __str__(self) -> str:
        return f"{self.file or self.module}:{self.qualname}"


class Argument(Part):
    """One argument of a constructor; `omegaconf` says that it was a DictConfig or ListConfig."""

    value: PlainJson
    omegaconf: bool = False


class ProviderSpec(Part):
    """How to construct the provider again: its class and the arguments it was constructed with."""

    cls: ClassReference
    args: list[Argument] = []
    kwargs: dict[str, Argument] = {}


class RunSpec(PersistedModel):
    """What all shards of a run share (`run.json`). It exists if and only if the plan is whole."""

    title: ClassVar[str] = "run"
    MOST_BYTES: ClassVar[int] = 1 << 30  # the provider's arguments may be of any size

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

    @model_validator(mode="after")
    def _shards_have_items(self) -> Self:
        most = min(MAX_SHARDS, count_batches(self.n_inputs, self.batch_size))
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


class ProcessIdentity(Part):
    """A process, so that another process of the same host can tell whether it still lives."""

    host: str
    pid: Annotated[int, Field(ge=1)]
    started: float
    user: str


class PlannedJob(Part):
    """One job or job array of a submission: tasks `first_task` … `first_task + n_tasks - 1`.

    It starts when the job at position `after` has ended, in whatever way. In `log`, `{index}`
    stands for the index in the job.
    """

    name: str
    first_task: Count
    n_tasks: Annotated[int, Field(ge=1)]
    throttle: Annotated[int, Field(ge=1)] | None = None
    after: Count | None = None
    log: str


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


class AcceptedJob(Part):
    """A job that the scheduler accepted; `name` is the unique name of its planned job."""

    name: str
    job_id: str


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


class ErrorRecord(Part):
    """An exception of the user's code."""

    type: Text
    message: Text
    traceback: Text = ""


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


class ResultPart(Part):
    """The first `records` lines, `bytes` long, of a result file; `first` is their position."""

    file: ResultName
    first: Count
    records: Annotated[int, Field(ge=1)]
    bytes: Annotated[int, Field(ge=1)]
    checksum: Checksum


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
    "AttemptRecord",
    "Cancellation",
    "ClassReference",
    "ErrorRecord",
    "ItemList",
    "ItemRange",
    "PersistedModel",
    "PlannedJob",
    "ProcessIdentity",
    "ProviderSpec",
    "Receipt",
    "ResultPart",
    "RunSpec",
    "ShardSpec",
    "Submission",
    "decode",
    "encode",
    "now",
]
