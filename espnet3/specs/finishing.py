"""The persisted models of a run that finishes itself; see `espnet3.specs.models`.

Workers never load them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AwareDatetime, Field

from espnet3.specs.base import NestedModel, PersistedModel
from espnet3.specs.items import Items
from espnet3.specs.nested import (
    Count,
    Generation,
    PlainJson,
    PlannedJob,
    ProcessIdentity,
    Rank,
    Text,
)

MOST_UNFINISHED = 1000  # shards that `finished.json` names


class Finisher(PersistedModel):
    """The intent to queue a finisher, written before its job (`finishers/0001.json`).

    It starts when the jobs `waits_for` have ended, by whatever cause. `submission` is the newest
    one that it comes behind, and `end` the number of the end that it works towards. With `up_front`
    it submits nothing: the wave with the number `wave` waits for it already; 0 where none is left.
    """

    title: ClassVar[str] = "finisher"
    MOST_BYTES: ClassVar[int] = 1 << 28  # an id for each job of a run

    number: Annotated[int, Field(ge=1)]
    submission: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    submitter: ProcessIdentity
    end: Generation
    up_front: bool = False
    wave: Count = 0
    scheduler: str
    options: dict[str, PlainJson]
    command: list[str]
    submit_command: list[str]
    script: str
    log_directory: str
    waits_for: list[str]
    job: PlannedJob


class QueuedFinisher(PersistedModel):
    """The finisher's job, as the scheduler took it (`finishers/0001.job.json`).

    `refused` holds the scheduler's words where it did not.
    """

    title: ClassVar[str] = "queued-finisher"

    number: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    recorded_by: ProcessIdentity
    job_id: str | None
    refused: Text | None = None


class Portion(NestedModel):
    """Shards of a wave that get the same options.

    These are as in the submission `like` (0: in the plan), but for `options`. `counted` says
    whether it is one of the attempts that `max_attempts` bounds, and `retries_errors` whether it is
    one of those that `retry_errors` allows.
    """

    ranks: Items
    like: Count
    options: dict[str, PlainJson] = {}
    cause: Text
    counted: bool = True
    retries_errors: bool = False

    def shards(self) -> list[int]:
        """The ranks, in order."""
        return [rank for rank in self.ranks if isinstance(rank, int)]


class BadNode(NestedModel):
    """A node that a wave keeps away from, and why."""

    node: Text
    evidence: Text


class Wave(PersistedModel):
    """What a finisher decided to submit, written before it does (`waves/0001.json`).

    Its submissions have the numbers from `submission` on. `n_done` shards and `items_done` items of
    the others were done by then.
    """

    title: ClassVar[str] = "wave"
    MOST_BYTES: ClassVar[int] = 1 << 29

    number: Annotated[int, Field(ge=1)]
    finisher: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    by: ProcessIdentity
    submission: Annotated[int, Field(ge=1)]
    portions: Annotated[list[Portion], Field(min_length=1)]
    bad_nodes: list[BadNode] = []
    n_done: Count
    items_done: Count


class UnfinishedShard(NestedModel):
    """A shard without a receipt, and why nobody tries it again."""

    rank: Rank
    state: str
    cause: Text


class WaveSummary(NestedModel):
    """A wave in one line for a person."""

    number: Annotated[int, Field(ge=1)]
    words: Text


class Finished(PersistedModel):
    """The end of a run that finishes itself (`finished.json`).

    `number` counts such ends: somebody may resume the run after one. `results` is the collected
    file. `skipped` of the `errors` stand for items that were passed over; None where version 1 does
    not say it. Of the shards that are not done, `unfinished` holds the first 1,000.
    """

    title: ClassVar[str] = "finished"
    version: ClassVar[int] = 2
    schema_version: Literal[1, 2] = 2  # type: ignore[assignment]  # pydantic reads the nearest

    number: Generation
    finisher: Annotated[int, Field(ge=1)]
    created: AwareDatetime
    by: ProcessIdentity
    outcome: Literal["done", "incomplete", "stopped"]
    cause: Text = ""
    results: str | None = None
    records: Count = 0
    errors: Count = 0
    skipped: Count | None = None
    n_shards: Annotated[int, Field(ge=1)]
    n_done: Count
    unfinished: list[UnfinishedShard] = []
    waves: list[WaveSummary] = []


class Notified(PersistedModel):
    """That the user's command was run after an end (`notified.json`); `exit_code` is its own."""

    title: ClassVar[str] = "notified"

    number: Generation
    created: AwareDatetime
    by: ProcessIdentity
    exit_code: int
    output: Text = ""


FINISHING: tuple[type[PersistedModel], ...] = (
    Finisher,
    QueuedFinisher,
    Wave,
    Finished,
    Notified,
)
