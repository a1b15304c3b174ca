"""The persisted models of the dynamic schedule: who is at which shard. See `specs.models`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from espnet3.specs.base import PersistedModel
from espnet3.specs.nested import (
    AttemptName,
    Checksum,
    Count,
    Generation,
    ProcessIdentity,
    Rank,
    ResultPart,
    Usage,
    Weight,
    WorkerName,
    require_in_order,
)


class Claim(PersistedModel):
    """A worker takes a shard, or what is left of it from `first` on (`claims/000042.1.0.json`).

    It stands in place of the `started` of its attempt. `number` counts the claims of the shard's
    `generation`.
    """

    title: ClassVar[str] = "claim"

    rank: Rank
    generation: Generation
    number: Count
    first: Count = 0
    attempt: AttemptName
    worker: WorkerName
    process: ProcessIdentity
    task: Count | None
    job_id: str | None
    time: AwareDatetime


class PartialReceipt(PersistedModel):
    """A claim's worker has come to the end of what it claimed (`claims/000042.1.0.part.json`).

    It vouches for that part of a shard as a receipt does for all of it; from the partial receipts
    of a whole shard its receipt is made. `usage` is None before version 2.
    """

    title: ClassVar[str] = "partial-receipt"
    version: ClassVar[int] = 2
    MOST_BYTES: ClassVar[int] = 1 << 26  # a part for each checkpoint, on object stores
    schema_version: Literal[1, 2] = 2  # type: ignore[assignment]  # pydantic reads the nearest

    rank: Rank
    generation: Generation
    number: Count
    attempt: AttemptName
    fingerprint: Checksum
    errors: Count
    salvaged: Count
    parts: Annotated[list[ResultPart], Field(min_length=1)]
    host: str
    created: AwareDatetime
    usage: Usage | None = None

    @property
    def first(self) -> int:
        """Position of the first item in the shard."""
        return self.parts[0].first

    @property
    def end(self) -> int:
        """Position after the last item."""
        return self.parts[-1].first + self.parts[-1].records

    @model_validator(mode="after")
    def _parts_follow_each_other(self) -> Self:
        require_in_order(self.rank, self.parts, self.parts[0].first)
        return self


class WorkerState(PersistedModel):
    """The last sign of life of a worker that claims shards (`workers/<worker>.json`).

    `beat` counts the signs. From position `position` on, up to `end`, the shard `rank` is not
    computed yet; of what was claimed, `computed` items took `seconds`. `peak_memory` is as in an
    attempt's usage, so that a worker that is killed has said it. `ended` says that no other sign
    will come.
    """

    title: ClassVar[str] = "worker"
    version: ClassVar[int] = 2
    schema_version: Literal[1, 2] = 2  # type: ignore[assignment]  # pydantic reads the nearest

    worker: WorkerName
    beat: Count
    process: ProcessIdentity
    task: Count | None
    job_id: str | None
    started: AwareDatetime
    time: AwareDatetime
    rank: Rank | None = None
    claim: Count = 0
    position: Count = 0
    end: Count = 0
    computed: Count = 0
    seconds: Weight = 0.0
    shards_done: Count = 0
    items_done: Count = 0
    peak_memory: Count | None = None
    ended: bool = False


class Remaining(PersistedModel):
    """What is left of a run, as the worker saw it that looked last (`claims/remaining.json`).

    A claim is for good and so is a receipt: what is not in `free` can never be free, however old
    this is. Those in `claimed` had no receipt yet, and were claimed, or set aside by the worker.
    `number` counts what its worker has written.
    """

    title: ClassVar[str] = "remaining"
    MOST_BYTES: ClassVar[int] = 1 << 26  # eight bytes for each shard, at most

    run_id: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
    worker: WorkerName
    number: Count
    time: AwareDatetime
    free: list[Rank]
    claimed: list[Rank]
