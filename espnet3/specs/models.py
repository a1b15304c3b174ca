"""The persisted models: everything that a run directory holds as JSON.

Field by field they are documented in `docs/format.md`; their JSON Schema is in `schemas/`.
`encode` and `decode`, of `espnet3.specs.codec`, are the only ways in and out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, JsonValue, model_validator

from espnet3.errors import UsageError
from espnet3.specs.base import NestedModel, PersistedModel
from espnet3.specs.claims import Claim, PartialReceipt, Remaining, WorkerState
from espnet3.specs.codec import decode, encode
from espnet3.specs.items import ItemList, ItemRange, Items, count_batches, shard_bounds
from espnet3.specs.nested import (
    MAX_SHARDS,
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
    QueuedAhead,
    Rank,
    RestoredValue,
    ResultName,
    ResultPart,
    SkippedItem,
    Text,
    Usage,
    Weight,
    WritersSpec,
    Written,
    WrittenFile,
    require_in_order,
)
from espnet3.specs.sources import CodeRecord, SourceFile
from espnet3.specs.submissions import CUT_SHORT, AcceptedJobs, Cancellation, Submission
from espnet3.text import counted

NO_TIME = datetime.fromtimestamp(0, UTC)  # of what is known to have been, but not when


def now() -> datetime:
    """The time here, in UTC; times of two hosts are never compared, only shown."""
    return datetime.now(UTC)


class RunSpec(PersistedModel):
    """What all shards of a run share (`run.json`). It exists if and only if the plan is whole."""

    title: ClassVar[str] = "run"
    version: ClassVar[int] = 5
    MOST_BYTES: ClassVar[int] = 1 << 30  # the provider's arguments may be of any size
    schema_version: Literal[1, 2, 3, 4, 5] = 5  # type: ignore[assignment]  # pydantic reads the nearest

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    created: AwareDatetime
    fingerprint: Checksum

    runner: ClassReference
    provider: ProviderSpec
    n_inputs: Annotated[int, Field(ge=1)]
    items_digest: str
    batch_size: Annotated[int, Field(ge=1)] | None = None
    world_size: Annotated[int, Field(ge=1)]
    bounds: list[Count] | None = None
    weights: list[Weight] | None = None
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
    writers: WritersSpec | None = None

    def arguments(self) -> list[Argument]:
        """All values that provider, variables and a runner that writes are made of."""
        own = [] if self.writers is None else self.writers.attributes.values()
        return [*self.provider.given(), *(each.value for each in self.assignments), *own]

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
        newer = {
            3: self.bounds or self.weights,
            4: self.writers,
            5: self.process and self.process.hidden_modules,
        }
        for version, fields in newer.items():
            if self.schema_version < version and fields:
                raise ValueError(
                    f"schema_version: is {self.schema_version}, and there are fields of version "
                    f"{version}"
                )
        return self

    @model_validator(mode="after")
    def _bounds_are_of_shards(self) -> Self:
        bounds = self.bounds
        if bounds is not None and (
            len(bounds) != self.world_size + 1
            or (bounds[0], bounds[-1]) != (0, self.n_items)
            or any(first >= last for first, last in pairwise(bounds))
        ):
            raise ValueError("bounds: do not cut the items into the shards")
        if self.weights is not None and len(self.weights) != self.world_size:
            raise ValueError(f"weights: are {len(self.weights)}, not one for each shard")
        return self

    @property
    def n_items(self) -> int:
        """How many items the run has; with `batch_size`, lists of inputs are the items."""
        return count_batches(self.n_inputs, self.batch_size)

    def bounds_of(self, rank: int) -> tuple[int, int]:
        """Positions of a shard's first item and of the item after its last one."""
        if self.bounds is not None:
            return self.bounds[rank], self.bounds[rank + 1]
        return shard_bounds(rank, self.world_size, self.n_items)

    def n_items_of(self, rank: int) -> int:
        """How many items a shard has."""
        first, last = self.bounds_of(rank)
        return last - first

    def n_items_in(self, ranks: Collection[int]) -> int:
        """How many items some shards have together."""
        if self.bounds is not None:
            return sum(map(self.n_items_of, ranks))
        n, world_size = self.n_items, self.world_size
        if n % world_size == 0:
            return len(ranks) * (n // world_size)
        return sum(n * (rank + 1) // world_size - n * rank // world_size for rank in ranks)

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
        "bounds",
        "weights",
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


class AttemptRecord(PersistedModel):
    """One event of one execution of one shard (`attempts/000042.<attempt>.<event>.json`).

    `usage` is None in `started`, and where another process says that it failed. In version 2
    `peak_memory` alone was said of it; `memory_needed` is that of any version.
    """

    title: ClassVar[str] = "attempt"
    version: ClassVar[int] = 3
    schema_version: Literal[1, 2, 3] = 3  # type: ignore[assignment]  # pydantic reads the nearest

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
    peak_memory: Count | None = None
    usage: Usage | None = None

    @property
    def memory_needed(self) -> int | None:
        """The most bytes that the attempt is known to have needed; None where it did not say."""
        return self.peak_memory if self.usage is None else self.usage.peak_memory


class Receipt(PersistedModel):
    """The record that makes a shard done (`receipts/000042.json`), until it is withdrawn.

    `usage` is None before version 2, and where it was made from partial receipts, which have it.
    `written` is there where the runner has writers, from version 3 on.
    """

    title: ClassVar[str] = "receipt"
    version: ClassVar[int] = 3
    MOST_BYTES: ClassVar[int] = 1 << 26  # a part for each checkpoint, on object stores
    schema_version: Literal[1, 2, 3] = 3  # type: ignore[assignment]  # pydantic reads the nearest

    rank: Rank
    attempt: AttemptName
    fingerprint: Checksum
    records: Annotated[int, Field(ge=1)]
    errors: Count
    salvaged: Count
    parts: Annotated[list[ResultPart], Field(min_length=1)]
    host: str
    created: AwareDatetime
    usage: Usage | None = None
    written: Written | None = None

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Self:
        position = require_in_order(self.rank, self.parts, 0)
        if position != self.records:
            raise ValueError(f"parts: hold {counted(position, 'record')}, not {self.records}")
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
    CodeRecord,
    Claim,
    PartialReceipt,
    WorkerState,
    Remaining,
    AttemptRecord,
    Receipt,
    Withdrawal,
)

__all__ = [
    "CUT_SHORT",
    "MAX_SHARDS",
    "PERSISTED",
    "AcceptedJob",
    "AcceptedJobs",
    "Argument",
    "Assignment",
    "AttemptRecord",
    "Cancellation",
    "Claim",
    "ClassReference",
    "CodeRecord",
    "ErrorRecord",
    "ItemList",
    "ItemRange",
    "NestedModel",
    "PartialReceipt",
    "PersistedModel",
    "PlannedJob",
    "ProcessIdentity",
    "ProcessState",
    "ProviderSpec",
    "QueuedAhead",
    "Receipt",
    "Remaining",
    "RestoredValue",
    "ResultPart",
    "RunSpec",
    "ShardSpec",
    "SkippedItem",
    "SourceFile",
    "Submission",
    "Usage",
    "WorkerState",
    "WritersSpec",
    "Written",
    "WrittenFile",
    "decode",
    "encode",
    "now",
]
