"""What happened when: rows of cells for a timeline, and items over time. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from espnet3.report.model import Facts
from espnet3.report.workers import SHADES, Shade, Worker

MOST_ROWS = 100  # workers that get a bar each
_COLUMNS, _FEWEST_COLUMNS = 600, 25
_MOST_BARS = 3000  # in a figure, so that its size has a bound


@dataclass(frozen=True, slots=True)
class Bar:
    """Seconds of a row in one shade, counted from the timeline's beginning."""

    row: int
    start: float
    end: float
    shade: Shade


@dataclass(frozen=True, slots=True)
class Timeline:
    """What all workers did.

    Attributes:
        start: when it begins; everything else counts from there.
        seconds: how long it is.
        rows: names of the workers, where each has a row; empty where they are too many.
        bars: what they did; of rows.
        edges: seconds between which workers are counted.
        counts: shade -> how many workers, on average, between two edges.
    """

    start: float
    seconds: float
    rows: list[str]
    bars: list[Bar]
    edges: list[float]
    counts: dict[Shade, list[float]]

    def peak(self) -> float:
        """The most workers that were busy at the same time, on average between two edges."""
        return max(map(sum, zip(*self.counts.values(), strict=True)), default=0.0)


def timeline(workers: Sequence[Worker], slices: int = 200) -> Timeline:
    """What all workers did: a row for each, or how many did what where they are many.

    Args:
        workers: in the order of the rows.
        slices: how many times are told apart where they are counted.
    """
    start = min((worker.start for worker in workers), default=0.0)
    end = max((worker.end for worker in workers), default=0.0)
    seconds = max(end - start, 1e-3)
    rows, bars = [], list[Bar]()
    if len(workers) <= MOST_ROWS:
        rows = [worker.name for worker in workers]
        columns = _COLUMNS
        bars = _bars(workers, start, seconds, columns)
        while len(bars) > _MOST_BARS and columns > _FEWEST_COLUMNS:
            columns //= 2
            bars = _bars(workers, start, seconds, columns)
    edges = [seconds * i / slices for i in range(slices + 1)]
    spans = [
        (s.start - start, s.end - start, s.shade) for worker in workers for s in worker.stretches
    ]
    counts = {
        shade: _counted([(a, b) for a, b, own in spans if own == shade], edges) for shade in SHADES
    }
    return Timeline(start, seconds, rows, bars, edges, counts)


def _bars(workers: Sequence[Worker], start: float, seconds: float, columns: int) -> list[Bar]:
    """The bars of all rows, as fine as so many columns show; what lasts less than one is shown."""
    width = seconds / columns
    found = []
    for row, worker in enumerate(workers):
        cells: list[tuple[Shade, float] | None] = [None] * columns
        for stretch in worker.stretches:
            first = min(int((stretch.start - start) / width), columns - 1)
            last = min(int((stretch.end - start) / width), columns - 1)
            for column in range(first, max(last, first + 1)):
                left, right = start + column * width, start + (column + 1) * width
                weight = min(stretch.end, right) - max(stretch.start, left)
                weight += width if stretch.shade not in ("done", "environment") else 0
                there = cells[column]
                if there is None or weight > there[1]:
                    cells[column] = stretch.shade, weight
        position = 0
        for shade, run in groupby(None if cell is None else cell[0] for cell in cells):
            length = len([*run])
            if shade is not None:
                found.append(Bar(row, position * width, (position + length) * width, shade))
            position += length
    return found


def _counted(spans: Sequence[tuple[float, float]], edges: Sequence[float]) -> list[float]:
    """How many spans there are between two edges, on average."""
    width = edges[1] - edges[0]
    total = [0.0] * len(edges)
    for start, end in spans:
        first, last = bisect_right(edges, start) - 1, bisect_right(edges, end) - 1
        if first == last:
            total[first] += (end - start) / width
            continue
        total[first] += (edges[first + 1] - start) / width
        for position in range(first + 1, min(last, len(edges) - 1)):
            total[position] += 1.0
        if last < len(edges) - 1:
            total[last] += (end - edges[last]) / width
    return total[:-1]


@dataclass(frozen=True, slots=True)
class Items:
    """How many items there were at certain times.

    Attributes:
        times: seconds from the first of them.
        computed: by then, those that were computed again counted again.
        done: of shards that were done by then.
    """

    times: list[float]
    computed: list[float]
    done: list[int]


def items_over_time(facts: Facts, start: float, points: int = 200) -> Items:
    """How the items became more; within an attempt as if each took as long as the others.

    Args:
        facts: what is known.
        start: the time that counts as 0.
        points: how many times are told apart.
    """
    end = facts.latest()
    times = [max(end - start, 1e-3) * i / points for i in range(points + 1)]
    slopes: dict[float, float] = defaultdict(float)  # items a second, from a time on
    steps: dict[float, float] = defaultdict(float)  # items at once
    for attempt in facts.attempts:
        if attempt.items and attempt.start is not None and attempt.end is not None:
            a, b = attempt.start - start, attempt.end - start
            if b > a:
                slopes[a] += attempt.items / (b - a)
                slopes[b] -= attempt.items / (b - a)
            else:
                steps[a] += attempt.items
    done_at = sorted((time - start, records) for _, time, records in facts.done)
    made = [time for time, _ in done_at]
    sums = [0]
    for _, records in done_at:
        sums.append(sums[-1] + records)
    done = [sums[bisect_right(made, time)] for time in times]
    return Items(times, _integrated(slopes, steps, times), done)


def _integrated(
    slopes: Mapping[float, float], steps: Mapping[float, float], times: Sequence[float]
) -> list[float]:
    marks = sorted({*slopes, *steps, *times})
    at, rate = {marks[0]: steps.get(marks[0], 0.0)}, slopes.get(marks[0], 0.0)
    for before, mark in pairwise(marks):
        at[mark] = at[before] + rate * (mark - before) + steps.get(mark, 0.0)
        rate += slopes.get(mark, 0.0)
    return [at[time] for time in times]
