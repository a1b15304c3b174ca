"""Which shards a resume submits."""

from __future__ import annotations

from collections.abc import Sequence

from espnet3.errors import SchedulerUnavailable
from espnet3.status.run_status import LIVE, RunStatus


def choose_ranks(
    status: RunStatus, wanted: Sequence[int] | None = None, *, force: bool = False
) -> tuple[list[int], dict[int, str]]:
    """What a resume submits, and what it leaves alone and why.

    Args:
        status: the state of every shard.
        wanted: only these shards; all where unset.
        force: also those that seem to be queued or running.

    Raises:
        SchedulerUnavailable: it does not answer, so that shards that were submitted before may be
            alive or dead.
    """
    chosen: list[int] = []
    left_alone = {}
    uncertain = False
    for rank in range(len(status.shards)) if wanted is None else wanted:
        state = status.shards.states[rank]
        if state == "done":
            left_alone[rank] = "done"
            continue
        shard = status.shards[rank]
        if state in LIVE and not force:
            left_alone[rank] = shard.words
        else:
            chosen.append(rank)
        # What failed by its record may have been requeued since.
        uncertain |= shard.submission is not None
    if uncertain and not force and status.scheduler_problem is not None:
        scheduler, _, words = status.scheduler_problem.partition(": ")
        raise SchedulerUnavailable(
            scheduler, f"{words}; so it cannot be told which shards still run: try again, or force"
        )
    return chosen, left_alone
