"""What is known of a run, and what is found of a shard: the ends of `shard_states`."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.layout import AttemptFile
from espnet3.specs.models import AttemptRecord, Claim
from espnet3.status.run_status import LIVE, Kind, ShardStatus, State


class Found(NamedTuple):
    """What is known of a shard that is not done; as in `ShardStatus`."""

    state: State
    cause: str
    kind: Kind | None = None

    def status(
        self,
        rank: int,
        submission: int | None = None,
        task: int | None = None,
        last: AttemptRecord | None = None,
    ) -> ShardStatus:
        """The same of a shard, with what its last attempt said."""
        ended = last is not None and last.event != "started"
        return ShardStatus(
            rank,
            self.state,
            self.cause,
            submission,
            task,
            None if self.state in LIVE else self.kind,
            last.items_done if last is not None else 0,
            last.host if last is not None else None,
            last.elapsed if last is not None and ended else None,
            last.memory_needed if last is not None else None,
        )


class Evidence(NamedTuple):
    """All that is known of a run.

    Attributes:
        world_size: how many shards it has.
        receipts: the ranks that have one which counts.
        records: what could be read of the attempt records of shards that have none.
        submissions: in the order of their numbers.
        being_submitted: numbers of submissions without recorded jobs whose submitter still lives.
        cancelled: numbers of submissions that somebody cancelled.
        tasks: what the scheduler says; None where it did not answer.
        withdrawn: ranks whose receipt was withdrawn -> generation that the next one will have.
        claims: rank -> claims of a shard that has no receipt, in order.
        why_cancelled: number of a submission -> why it was cancelled, or "".
        chosen: number of a wave that was queued up front -> the shards that it is to compute.
    """

    world_size: int
    receipts: Collection[int]
    records: Mapping[AttemptFile, AttemptRecord]
    submissions: Sequence[KnownSubmission]
    being_submitted: Container[int]
    cancelled: Container[int]
    tasks: TaskStates | None
    withdrawn: Mapping[int, int] = MappingProxyType({})
    claims: Mapping[int, Sequence[Claim]] = MappingProxyType({})
    why_cancelled: Mapping[int, str] = MappingProxyType({})
    chosen: Mapping[int, Collection[int]] = MappingProxyType({})
