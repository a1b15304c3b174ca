"""The figures, as SVG that a page takes in: text stays text, and colours are the page's.

matplotlib draws them. It is an extra, so it is imported when something is drawn.
"""

from __future__ import annotations

import html
import io
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from espnet3.report.efficiency import PARTS, Efficiency, Part
from espnet3.report.spread import Spread
from espnet3.report.times import Items, Timeline
from espnet3.report.words import duration, size
from espnet3.report.workers import SHADES

# What matplotlib is told -> the page's own variable, which is another one where it is dark.
_INK, _FAINT, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404"
_OF_SHADE = {shade: f"#0505{i:02x}" for i, shade in enumerate(SHADES, 16)}
_OF_PART: dict[Part, str] = {part: f"#0606{i:02x}" for i, part in enumerate(PARTS, 16)}
_VARIABLES = {
    _INK: "ink",
    _FAINT: "faint",
    _FIRST: "first",
    _SECOND: "second",
    **{colour: f"s-{shade}" for shade, colour in _OF_SHADE.items()},
    **{colour: f"p-{part}" for part, colour in _OF_PART.items()},
}
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "espnet3",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "path.simplify": True,
}
_ONE_AT_A_TIME = threading.Lock()  # what matplotlib is told is told to all of a process
_UNITS = (
    (86400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"),
    (0.001, "milliseconds"),
)  # fmt: skip
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def draw_timeline(what: Timeline, name: str, title: str) -> str:
    """A bar for each worker; how many did what where they are many."""

    def draw(axes: Any, unit: float) -> None:
        if what.rows:
            _draw_rows(axes, what, unit)
        else:
            _draw_counts(axes, what, unit)

    height = 0.7 + 0.14 * len(what.rows) if what.rows else 2.6
    return _timed(draw, what.seconds, name, title, min(max(height, 1.1), 12.0))


def _draw_rows(axes: Any, what: Timeline, unit: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    for shade, colour in _OF_SHADE.items():
        rectangles = [
            Path(
                [(a, row - 0.4), (b, row - 0.4), (b, row + 0.4), (a, row + 0.4), (a, row - 0.4)],
                closed=True,
            )
            for row, a, b in (
                (bar.row, bar.start / unit, bar.end / unit)
                for bar in what.bars
                if bar.shade == shade
            )
        ]
        if rectangles:
            whole = Path.make_compound_path(*rectangles)
            axes.add_patch(PathPatch(whole, facecolor=colour, linewidth=0))
    step = max(1, len(what.rows) // 40)
    axes.set_yticks(range(0, len(what.rows), step), what.rows[::step], fontsize=7)
    axes.set_ylim(len(what.rows) - 0.4, -0.6)
    axes.set_ylabel("worker")
    axes.tick_params(axis="y", length=0)


def _draw_counts(axes: Any, what: Timeline, unit: float) -> None:
    edges = [edge / unit for edge in what.edges]
    below = [0.0] * (len(edges) - 1)
    for shade, colour in _OF_SHADE.items():
        counts = what.counts[shade]
        if any(counts):
            above = [a + b for a, b in zip(below, counts, strict=True)]
            axes.stairs(above, edges, baseline=below, fill=True, color=colour, linewidth=0)
            below = above
    axes.set_ylim(0, None)
    axes.set_ylabel("workers")


def draw_items(what: Items, seconds: float, name: str, title: str) -> str:
    """Items computed, and items of shards that are done."""

    def draw(axes: Any, unit: float) -> None:
        times = [time / unit for time in what.times]
        axes.plot(times, what.computed, color=_FIRST, linewidth=1.6)
        axes.step(times, what.done, where="post", color=_SECOND, linewidth=1.6, linestyle="--")
        axes.set_ylim(0, None)
        axes.set_ylabel("items")
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.grid(axis="y", linewidth=0.4)

    return _timed(draw, seconds, name, title, 2.4)


def draw_seconds(what: Spread, label: str, name: str, title: str) -> str:
    """How many items or shards took how long."""

    def draw(axes: Any) -> None:
        _draw_spread(axes, what, duration, _UNITS)
        axes.set_ylabel(label)

    return _svg(draw, name, title, (4.6, 2.2))


def draw_memory(what: Spread, asked: Sequence[int], name: str, title: str) -> str:
    """How many attempts needed how much memory, and what was asked for."""

    def draw(axes: Any) -> None:
        unit = _draw_spread(axes, what, size, _BYTES, max(asked, default=0.0))
        for limit in asked:
            axes.axvline(limit / unit, color=_SECOND, linewidth=1.6, linestyle="--")
        axes.set_ylabel("attempts")

    return _svg(draw, name, title, (4.6, 2.2))


def _draw_spread(
    axes: Any,
    what: Spread,
    words: Callable[[float], str],
    units: Sequence[tuple[float, str]],
    up_to: float = 0.0,
) -> float:
    """Draw a distribution; gives the unit of its axis."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

    far = what.edges[0] > 0 and what.edges[-1] / what.edges[0] > 50
    end = max(what.edges[-1], up_to)
    unit, word = (1.0, "") if far else _unit(end, units)
    axes.stairs(what.counts, [edge / unit for edge in what.edges], fill=True, color=_FIRST)
    if far:
        axes.set_xscale("log", base=10 if what.edges[0] > 1000 else 2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, position: words(value)))
    else:
        axes.set_xlim(min(0.0, what.edges[0]), 1.03 * end / unit)
        axes.set_xlabel(word)
    axes.tick_params(axis="x", labelsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    return unit


def _unit(most: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    """The largest unit of which there are two at least; else the smallest."""
    return next((unit for unit in units if most >= 2 * unit[0]), units[-1])


def draw_efficiency(what: Efficiency, name: str, title: str) -> str:
    """What the core hours went for, as one bar."""

    def draw(axes: Any) -> None:
        left = 0.0
        for part, colour in _OF_PART.items():
            width = 100 * what.core_hours[part] / what.allocated
            if width:
                axes.barh([0], [width], left=left, color=colour, height=1.0)
                left += width
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.5, 0.5)
        axes.set_yticks([])
        axes.set_xlabel("% of the core hours")
        axes.spines["left"].set_visible(False)

    return _svg(draw, name, title, (7.6, 0.9))


def _timed(
    draw: Callable[[Any, float], None], seconds: float, name: str, title: str, height: float
) -> str:
    """A figure over time, in the unit that fits."""
    unit, word = _unit(seconds, _UNITS)

    def whole(axes: Any) -> None:
        draw(axes, unit)
        axes.set_xlim(0, seconds / unit)
        axes.set_xlabel(f"{word} since the first worker's first sign")

    return _svg(whole, name, title, (7.6, height))


def _svg(draw: Callable[[Any], None], name: str, title: str, inches: tuple[float, float]) -> str:
    """Draw a figure of one pair of axes, and give it the page's colours, names and title."""
    import matplotlib
    from matplotlib.figure import Figure

    with _ONE_AT_A_TIME, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        file = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_a_page(file.getvalue(), name, title)


def _for_a_page(text: str, name: str, title: str) -> str:
    """One SVG element whose names are its own, and which a screen reader reads as one picture."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r"<style type=.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"(?<!\w)id=\"", f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"href=\"#", f'href="#{name}-', text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)
    box = re.search(r"viewBox=\"[^\"]*\"", text)
    head = f'<svg {box[0] if box else ""} role="img" aria-labelledby="{name}-title">'
    body = text.partition(">")[2]
    return f'{head}<title id="{name}-title">{html.escape(title)}</title>{body.strip()}'
