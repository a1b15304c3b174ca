"""Distributions: how long items and shards took, and how much memory. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from espnet3.report.model import Facts

_BINS = 24


@dataclass(frozen=True, slots=True)
class Spread:
    """How many values lie between two edges; `least`, `median` and `most` of all of them.

    Of items only powers of two are known, so that these three are edges there.
    """

    edges: list[float]
    counts: list[int]
    least: float
    median: float
    most: float

    @property
    def n(self) -> int:
        """How many values there are."""
        return sum(self.counts)


def item_seconds(facts: Facts) -> Spread | None:
    """How long items took, as their workers counted; None where none did."""
    counts = Counter[int]()
    for attempt in facts.attempts:
        if attempt.usage is not None:
            for power, count in attempt.usage.item_seconds:
                counts[power] += count
    counts = +counts
    if not counts:
        return None
    powers = range(min(counts), max(counts) + 1)
    total, seen, middle = sum(counts.values()), 0, powers[0]
    for middle in powers:
        seen += counts[middle]
        if 2 * seen >= total:
            break
    edges = [2.0**power for power in (*powers, powers[-1] + 1)]
    return Spread(edges, [counts[p] for p in powers], edges[0], 2.0 ** (middle + 0.5), edges[-1])


def shard_seconds(facts: Facts) -> Spread | None:
    """How long the attempts took by which shards became done; None where nothing tells it."""
    seconds: dict[int, float] = defaultdict(float)
    for attempt in facts.attempts:
        if attempt.outcome == "done":
            seconds[attempt.rank] += attempt.seconds
    return spread([value for value in seconds.values() if value > 0])


def peaks(facts: Facts) -> Spread | None:
    """The memory that attempts needed at most; None where none said so."""
    found = [attempt.peak_memory for attempt in facts.attempts if attempt.peak_memory]
    return spread([float(peak) for peak in found])


def spread(values: Sequence[float]) -> Spread | None:
    """How values are distributed, in equal steps; in steps by a factor where they differ much.

    Example:
        >>> spread([1.0, 2.0, 4.0, 4.0]).median
        3.0
    """
    if not values:
        return None
    ordered = sorted(values)
    low, high, n = ordered[0], ordered[-1], len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    if high <= low * (1 + 1e-9):
        low, high = 0.9 * low, 1.1 * low if low else 1.0
    bins = max(1, min(_BINS, math.ceil(2 * math.sqrt(n))))
    if low > 0 and high / low > 50:
        ratio = math.log(high / low)
        edges = [low * math.exp(ratio * i / bins) for i in range(bins + 1)]
    else:
        edges = [low + (high - low) * i / bins for i in range(bins + 1)]
    counts, position = [0] * bins, 0
    for value in ordered:
        while position < bins - 1 and value >= edges[position + 1]:
            position += 1
        counts[position] += 1
    return Spread(edges, counts, ordered[0], middle, ordered[-1])
