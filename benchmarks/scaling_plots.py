"""The plots of docs/scaling.md, from what was measured (docs/scaling.json)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.measuring import ROOT
from benchmarks.scaling_report import BY_ITEMS, Data, Line
from tests.support import counting


def draw(data: Data) -> None:
    """Draw both plots; what is missing for that is said."""
    try:
        import matplotlib
    except ImportError:
        print("no plots: matplotlib is missing; pip install '.[bench]'")
        return
    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "scaling",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    if "system calls" in data:
        ladder = data["system calls"]
        for step in (counting.SUBMIT, counting.WORK, counting.DONE, counting.TO_FILE):
            _curve(
                left,
                step,
                ladder["x"],
                list(map(sum, zip(*ladder["steps"][step].values(), strict=True))),
                1e6,
            )
    _label(
        left, "shards", "system calls on the run directory", "dots: counted; lines: extrapolated"
    )
    for row, found in data.get("login", {}).items():
        if not row.endswith(BY_ITEMS):
            _curve(right, row, found["x"], found["peak"], 1e6)
    _label(right, "shards", "MB", "resident peak on the login node")
    figure.savefig(ROOT / "docs/scaling-shards.svg", metadata={"Date": None})
    figure, axes = pyplot.subplots(figsize=(5.5, 4), layout="constrained")
    for row, found in data.get("login", {}).items():
        if row.endswith(BY_ITEMS):
            _curve(axes, row.removesuffix(BY_ITEMS), found["x"], found["peak"], 1e9)
    _label(axes, "items", "MB", "resident peak on the login node")
    figure.savefig(ROOT / "docs/scaling-items.svg", metadata={"Date": None})
    pyplot.close("all")


def _curve(axes: Any, name: str, x: Sequence[float], y: Sequence[float], end: float) -> None:
    """Measured points as dots, and the line through the last two of them, dashed beyond them."""
    line = Line.through(x, y)
    (dots,) = axes.plot(x, y, "o", label=name)
    far = [x[-1] * (end / x[-1]) ** (i / 50) for i in range(51)]
    axes.plot(x, y, "-", color=dots.get_color(), linewidth=1)
    axes.plot(far, [max(line.at(n), y[-1]) for n in far], "--", color=dots.get_color(), linewidth=1)


def _label(axes: Any, x: str, y: str, title: str) -> None:
    axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y, title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
