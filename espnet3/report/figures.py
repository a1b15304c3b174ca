"""Each figure with its words and the table beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from espnet3.report import drawing
from espnet3.report.efficiency import PARTS, Efficiency
from espnet3.report.model import Facts, Row
from espnet3.report.spread import Spread, item_seconds, peaks, shard_seconds
from espnet3.report.times import MOST_ROWS, items_over_time, timeline
from espnet3.report.words import NOTHING, count, duration, hours, moment, share, size
from espnet3.report.workers import SHADES, Worker

_SLICES = 10  # rows of a table over time
_MOST_TABLE = 20  # rows of other tables
_WORDS = {
    "done": "at a shard that became done",
    "running": "at a shard that runs",
    "interrupted": "at a shard, and interrupted",
    "failed": "at a shard, and failed",
    "lost": "at a shard, and ended without a word",
    "environment": "building the environment",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure as the page shows it.

    Attributes:
        name: unique on the page.
        title: what it shows, which is also read aloud.
        svg: the picture; of our own making, so it is not escaped.
        note: more about it, in a sentence or two.
        head: of the table beside it.
        rows: of that table.
        legend: colour variables and what they stand for.
        swatches: colour variables of the rows, where the rows are the legend.
        beside: whether picture and table are narrow enough to stand beside each other.
    """

    name: str
    title: str
    svg: str
    note: str
    head: Row
    rows: Sequence[Row]
    legend: Sequence[tuple[str, str]] = ()
    swatches: Sequence[str] = ()
    beside: bool = False


def timeline_figure(workers: Sequence[Worker]) -> Figure:
    """What the workers did, a bar for each or, of many, how many did what."""
    what = timeline(workers)
    used = [shade for shade in SHADES if any(what.counts[shade])]
    title = f"What {count(len(workers), 'worker')} did, over {duration(what.seconds)}"
    svg = drawing.draw_timeline(what, "timeline", title)
    legend = [(f"s-{shade}", _WORDS[shade]) for shade in used]
    begun = f"It begins at {moment(what.start)} UTC, by the workers' own clocks."
    if what.rows:
        head: Row = ("worker", "host", "first sign", "was there", "busy", "attempts")
        rows = [*_worker_rows(workers)]
        note = f"A bar for each worker: its submission and task. {begun}"
    else:
        head = ("after", *(_WORDS[shade] for shade in used))
        rows = [*_slices(what.edges, [what.counts[shade] for shade in used])]
        note = (
            f"More than {MOST_ROWS} workers: how many of them did what at the same time, "
            f"{what.peak():,.0f} at most. {begun}"
        )
    return Figure("timeline", title, svg, note, head, rows, legend)


def _worker_rows(workers: Sequence[Worker]) -> Iterator[Row]:
    for worker in workers[:_MOST_TABLE]:
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in sorted(worker.outcomes.items()))
        busy = share(worker.busy / worker.seconds) if worker.seconds else NOTHING
        yield (
            worker.name, worker.host, moment(worker.start), duration(worker.seconds), busy, outcomes
        )  # fmt: skip
    if len(workers) > _MOST_TABLE:
        yield (f"and {len(workers) - _MOST_TABLE} more", "", "", "", "", "")


def _slices(edges: Sequence[float], counts: Sequence[Sequence[float]]) -> Iterator[Row]:
    step = len(edges) // _SLICES
    for first in range(0, len(edges) - 1, step):
        last = min(first + step, len(edges) - 1)
        means = (sum(own[first:last]) / (last - first) for own in counts)
        yield (duration(edges[first]), *(f"{mean:,.3g}" for mean in means))


def items_figure(facts: Facts, workers: Sequence[Worker]) -> Figure:
    """Items over time."""
    start = min(worker.start for worker in workers)
    what = items_over_time(facts, start)
    title = "Items that were computed, and items of shards that were done by then"
    svg = drawing.draw_items(what, what.times[-1], "items", title)
    step = len(what.times) // _SLICES
    rows = [
        (duration(what.times[i]), f"{what.computed[i]:,.0f}", f"{what.done[i]:,}")
        for i in range(0, len(what.times), step)
    ]
    note = (
        "Within an attempt items count as if each took as long as the others; items that were "
        "computed twice count twice."
    )
    legend = [("first", "computed (solid)"), ("second", "of shards that are done (dashed)")]
    head = ("after", "computed", "of done shards")
    return Figure("items", title, svg, note, head, rows, legend)


def second_figures(facts: Facts) -> Iterator[Figure]:
    """How long items and shards took."""
    items, shards = item_seconds(facts), shard_seconds(facts)
    if items is not None:
        title = f"How long {count(items.n, 'item')} took"
        svg = drawing.draw_seconds(items, "items", "item-seconds", title)
        note = "Workers count them by powers of two. Of fast items many share what passed."
        rows: list[Row] = [
            (f"{duration(a)} to {duration(b)}", f"{n:,}", share(n / items.n))
            for a, b, n in zip(items.edges, items.edges[1:], items.counts, strict=False)
        ]
        head: Row = ("an item took", "items", "share")
        yield Figure("item-seconds", title, svg, note, head, rows, beside=True)
    if shards is not None:
        title = f"How long {count(shards.n, 'shard')} took that became done"
        svg = drawing.draw_seconds(shards, "shards", "shard-seconds", title)
        head, rows = ("", "a shard took"), _three(shards, duration)
        note = "From the beginning of the attempts that made them done to their end."
        yield Figure("shard-seconds", title, svg, note, head, rows, beside=True)


def memory_figures(facts: Facts) -> Iterator[Figure]:
    """How much memory attempts needed, beside what was asked for."""
    what = peaks(facts)
    if what is None:
        return
    asked = sorted({own.memory for own in facts.submissions if own.memory is not None})
    beside = f", and {' and '.join(map(size, asked))} asked for" if asked else ""
    title = f"The memory that {count(what.n, 'attempt')} needed at most{beside}"
    svg = drawing.draw_memory(what, asked, "memory", title)
    rows = [*_three(what, size), *(("asked for", size(limit)) for limit in asked)]
    legend = [("first", "needed at most"), ("second", "asked for (dashed)")] if asked else []
    note = "As the process, the largest of its children, or the job's cgroup tells it."
    yield Figure("memory", title, svg, note, ("", "memory"), rows, legend, beside=True)


def _three(what: Spread, words: Callable[[float], str]) -> list[Row]:
    values = (("at least", what.least), ("median", what.median), ("at most", what.most))
    return [(name, words(value)) for name, value in values]


def efficiency_figure(what: Efficiency) -> Figure:
    """What the core hours went for."""
    title = f"What {hours(what.allocated)} core hours went for"
    svg = drawing.draw_efficiency(what, "efficiency", title)
    gpus = any(what.gpu_hours.values())
    rows = []
    for part, words in PARTS.items():
        row: Row = (words, hours(what.core_hours[part]))
        row += (hours(what.gpu_hours[part]),) if gpus else ()
        rows.append((*row, share(what.core_hours[part] / what.allocated)))
    head = ("", "core hours", *(("GPU hours",) if gpus else ()), "share")
    note = (
        "Allocated is a worker's time from its first sign, or from the start of its process where "
        "a record tells that, to its last sign. What a job does before and after that, no record "
        "tells: the scheduler counts more."
    )
    swatches = [f"p-{part}" for part in PARTS]
    return Figure("efficiency", title, svg, note, head, rows, swatches=swatches)
