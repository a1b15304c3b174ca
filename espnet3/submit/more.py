"""What to ask for where it was too little: one rule for what people read. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from espnet3.run_dir.finishers import ON_THIS_HOST
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.models import Submission
from espnet3.status.run_status import ShardStatus
from espnet3.submit.asked_memory import as_option, memory_of, memory_option
from espnet3.submit.finishers import MORE_MEMORY, MORE_TIME

_MB, _GB = 10**6, 10**9


def more_memory(given: int | None, peak: int | None) -> int | None:
    """Bytes to ask for where memory ran out; None where nobody knows how much there was.

    Example:
        >>> more_memory(4_000_000_000, None), more_memory(4_000_000_000, 9_000_000_000)
        (6000000000, 14000000000)
    """
    used = max(given or 0, peak or 0)
    return rounded(math.ceil(MORE_MEMORY * used)) if used else None


def more_time(given: float | None, elapsed: float | None) -> str | None:
    """The walltime to ask for where time was up; None where nobody knows how long it was.

    Example:
        >>> more_time(7200, 7195.3), more_time(None, 1799.5)
        ('4:00:00', '1:00:00')
    """
    seconds = given or elapsed
    return hours_minutes_seconds(60 * math.ceil(MORE_TIME * seconds / 60)) if seconds else None


def rounded(size: int) -> int:
    """A size that a person would ask for, and not less.

    Example:
        >>> rounded(5_400_000_000), rounded(23_100_000_000), rounded(123_400_000)
        (5500000000, 24000000000, 200000000)
    """
    step = _GB if size >= 10 * _GB else _GB // 2 if size >= _GB else 100 * _MB
    return -(-size // step) * step


def settings_for(
    shards: Iterable[ShardStatus],
    submissions: Mapping[int, Submission],
    done: Mapping[int, int],
) -> dict[str, str]:
    """The options that a resume of some shards should change, by what ended them.

    Time limits at which items were done count as none: a resume goes on from these.

    Args:
        shards: those that are missing.
        submissions: number -> submission, as far as they are known.
        done: rank -> how many of its items have a result, also where no worker could say so.
    """
    memory: dict[str, int] = {}
    seconds: list[tuple[float, str]] = []
    for shard in shards:
        last = submissions.get(shard.submission or 0)
        scheduler, options = (last.scheduler, last.options) if last else ("", {})
        if scheduler in ON_THIS_HOST:  # which limits neither
            continue
        if shard.kind == "memory":
            option = memory_option(scheduler, options) or "memory"
            wanted = more_memory(memory_of(scheduler, options), shard.peak_memory)
            memory[option] = max(wanted or 0, memory.get(option, 0))
        if shard.kind == "time" and not (shard.items_done or done.get(shard.rank)):
            walltime = options.get("walltime")
            given = get_scheduler(scheduler).walltime_seconds(walltime) if walltime else None
            if (long := more_time(given, shard.elapsed)) is not None:
                seconds.append((given or shard.elapsed or 0.0, long))
    found = {option: as_option(option, size) for option, size in memory.items() if size}
    return {**found, "walltime": max(seconds)[1]} if seconds else found
