"""How a run's shards are claimed, and what a claim gives."""

from __future__ import annotations

from typing import Any

from espnet3._structs import Struct
from espnet3.specs.models import Claim, Submission
from espnet3.worker.attempt import Attempt

HEARTBEAT = 30.0  # seconds, where a submission does not say


class Taken(Struct):
    """A shard, or a part of one, that is this worker's.

    Attributes:
        attempt: at it.
        claim: of it.
        claims: all of the shard that are known.
        end: position after its last item.
    """

    attempt: Attempt
    claim: Claim
    claims: list[Claim]
    end: int

    @property
    def is_further(self) -> bool:
        """Whether somebody else claimed some of the shard before."""
        return self.claim.number > 0


class Terms(Struct):
    """How a run's shards are claimed; see `ParallelConfig`.

    `in_order` is the joined worker's own: it tries its shards as they are given, whatever they
    weigh.
    """

    lease: float = 180.0
    heartbeat: float = HEARTBEAT
    speculate: bool = False
    in_order: bool = False

    @classmethod
    def of(cls, submission: Submission) -> Terms:
        """Those of a submission; an older version's are the usual ones."""
        said: Any = submission.parallel
        return cls(**{name: said[name] for name in cls._fields if name in said})
