"""From what is seen of a run to what the rules judge by."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from espnet3.errors import EspnetError
from espnet3.finish.rules import Before, Missing, suspects
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import Ending
from espnet3.schedulers import get_scheduler
from espnet3.specs.finishing import Wave
from espnet3.specs.models import RunSpec, Submission
from espnet3.status.observation import Observation
from espnet3.status.run_status import NOT_DONE
from espnet3.storage.concurrency import gather
from espnet3.submit.asked_memory import memory_of

_MOST_RECEIPTS = 2000  # that are read to learn where shards were done
_READERS = 8


def missing_shards(seen: Observation, waves: Sequence[Wave]) -> list[Missing]:
    """The shards that are not done, with all that is known of why.

    Args:
        seen: what is known of the run, its items counted.
        waves: those since its last end.
    """
    limits = {number: _limits(given) for number, given in seen.by_number().items()}
    counted, retried = Counter[int](), Counter[int]()
    for wave in waves:
        for portion in wave.portions:
            counted.update(portion.shards() if portion.counted else ())
            retried.update(portion.shards() if portion.retries_errors else ())
    found, durable = [], seen.status.progress.of_shards
    for rank in seen.status.shards.ranks(NOT_DONE):
        shard = seen.status.shards[rank]
        memory, walltime = limits.get(shard.submission or 0, (None, None))
        found.append(
            Missing(
                rank=rank,
                kind=shard.kind or "silent",
                words=shard.cause,
                items_done=durable.get(rank, 0),  # a killed attempt has not said how many
                memory=memory,
                peak=shard.peak_memory,
                walltime=walltime,
                attempts=1 + counted[rank],
                retries=retried[rank],
                host=shard.host,
                elapsed=math.inf if shard.elapsed is None else shard.elapsed,
            )
        )
    return found


def why_stopped(seen: Observation, ending: Ending) -> str:
    """Why somebody has cancelled the run since its last end; "" where nobody has.

    Single jobs that were cancelled by the scheduler's own command do not stop it.
    """
    since = 0
    if ending.end is not None:
        own = (f.finisher for f in ending.finishers if f.finisher.number == ending.end.finisher)
        since = next((finisher.submission for finisher in own), 0)
    causes = [why for number, why in sorted(seen.cancelled.items()) if number > since]
    return ", ".join(filter(None, ("cancelled", causes[0]))) if causes else ""


def before(waves: Sequence[Wave], n_done: int, items_done: int) -> Before:
    """What the waves found.

    Args:
        waves: those since the run's last end.
        n_done: how many shards are done by now.
        items_done: how many items of the others.
    """
    if not waves:
        return Before()
    then = [(wave.n_done, wave.items_done) for wave in waves]
    later = [*then[1:], (n_done, items_done)]
    n_free = sum(
        after > found and not any(portion.counted for portion in wave.portions)
        for wave, found, after in zip(waves, then, later, strict=True)
    )
    return Before(len(waves), *then[-1], n_free)


def _limits(submission: Submission) -> tuple[int | None, float | None]:
    """Bytes and seconds that a submission's jobs are given."""
    scheduler = get_scheduler(submission.scheduler)
    options = submission.options
    memory = memory_of(submission.scheduler, options)
    return memory, scheduler.walltime_seconds(options.get("walltime"))


def done_on(
    directory: RunDirectory, run: RunSpec, seen: Observation, missing: Iterable[Missing]
) -> Counter[str]:
    """Node -> how many shards were done there; empty where no node is suspected.

    Of many receipts some are read.
    """
    if not suspects(missing):
        return Counter()
    done = [*seen.receipts.items()]
    step = -(-len(done) // _MOST_RECEIPTS) or 1

    def host(entry: tuple[int, int]) -> str | None:
        try:
            return directory.receipt(run, *entry).host
        except EspnetError:  # a hint only
            return None

    return Counter(filter(None, gather(host, done[::step], _READERS)))
