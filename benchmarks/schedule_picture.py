"""`python -m benchmarks.schedule_picture`: draws docs/schedules.svg from the records of two runs.

The workload of `tail` on a real Slurm with 16 CPUs, static and dynamic, or two run directories that
are named: a row for each worker, a bar for each shard from its beginning to its receipt.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from benchmarks.makespan import N_CPUS
from benchmarks.measuring import ROOT, Bench
from benchmarks.tail import bound, compute_here
from espnet3.specs import layout
from tests.support import guard
from tests.support.debian import install
from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

PICTURE = ROOT / "docs/schedules.svg"
SIDES: dict[str, dict[str, Any]] = {
    "static": {"n_shards": N_CPUS},
    "dynamic": {"schedule": "dynamic"},
}


class Bar(NamedTuple):
    """A shard, or a part of one, that a worker has computed.

    Attributes:
        worker: its task.
        begin: seconds after the submission.
        end: the same.
        is_part: whether another worker had claimed some of the shard before.
    """

    worker: int
    begin: float
    end: float
    is_part: bool


def bars_of(run_dir: Path) -> list[Bar]:
    """The bars of a finished run, by its records alone."""
    submission = _read(Path(run_dir, layout.submission(1)))
    origin = _time(submission["created"])
    ends: dict[str, float] = {}  # attempt -> when it vouched for something
    begun = []
    for folder in (layout.RECEIPTS, layout.CLAIMS, layout.ATTEMPTS):
        for file in sorted(Path(run_dir, folder).glob("*.json")):
            record = _read(file)
            if "parts" in record:
                end = _time(record["created"]) - origin
                ends[record["attempt"]] = min(end, ends.get(record["attempt"], end))
            elif record.get("event") == "started" or layout.parse_claim(file.name):
                begun.append(record)
    return [
        Bar(
            record["task"] or 0,
            _time(record["time"]) - origin,
            ends[record["attempt"]],
            record.get("number", 0) > 0,
        )
        for record in begun
        if record["attempt"] in ends
    ]


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(file.read_bytes())
    return found


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def draw(runs: dict[str, list[Bar]], file: Path, least: float | None = None) -> None:
    """Draw the runs one above the other."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "schedules",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(runs), 1, figsize=(8, 2.6 * len(runs)), layout="constrained", sharex=True
    )
    for axes, (name, bars) in zip(rows, runs.items(), strict=True):
        for is_part, color in ((False, "tab:blue"), (True, "tab:orange")):
            some = [bar for bar in bars if bar.is_part == is_part]
            if some:
                axes.barh(
                    [bar.worker for bar in some],
                    [bar.end - bar.begin for bar in some],
                    left=[bar.begin for bar in some],
                    color=color,
                    edgecolor="white",
                    linewidth=0.5,
                    label="shared or taken over" if is_part else "a shard",
                )
        last = max(bar.end for bar in bars)
        axes.set(ylabel="worker", title=f"{name}: {last:.1f} s")
        if least is not None:
            axes.axvline(least, color="gray", linestyle="--", linewidth=1, label="the bound")
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    rows[-1].set(xlabel="seconds after the submission")
    figure.savefig(file, metadata={"Date": None})
    pyplot.close("all")


def main(arguments: list[str]) -> int:
    """Compute both runs unless they are named, and draw them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.schedule_picture")
    parser.add_argument("runs", metavar="RUN_DIR", nargs="*", type=Path, help="static, dynamic")
    parser.add_argument("--output", metavar="FILE", type=Path, default=PICTURE)
    options = parser.parse_args(arguments)
    if options.runs:
        found = dict(zip(SIDES, map(bars_of, options.runs), strict=True))
        draw(found, options.output)
        return 0
    install(PROGRAMS)
    temporary = tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)
    with temporary as folder, Bench(Path(folder), Path("/none")) as bench:
        cluster = bench.keep(SlurmCluster(Path(folder, "slurm"), cpus=N_CPUS))
        bench.environ |= cluster.env
        found = {}
        for name, keys in SIDES.items():
            run_dir = bench.new_folder() / "run"
            bench.child(compute_here, str(run_dir), 1.0, keys)
            found[name] = bars_of(run_dir)
            cluster.wait_until_idle()
    draw(found, options.output, bound())
    return 0


if __name__ == "__main__":
    guard.watch()
    sys.exit(main(sys.argv[1:]))
