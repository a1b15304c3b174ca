"""RESULTS.md: the table, versions, the machine."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import espnet3
from benchmarks.measuring import Bench, Line

PACKAGES = ("orjson", "pydantic", "dask", "distributed", "dask-jobqueue", "s3fs", "moto")
TIMES = "\N{MULTIPLICATION SIGN}"
_LOAD = os.getloadavg()  # before anything was measured


def as_text(line: Line) -> str:
    """A line for the terminal."""
    peer = f" | {line.against}: {_figure(line.peer)} {line.unit}" if line.peer else ""
    ours = f"{_figure(line.ours)} {line.unit} ({_spread(line.ours)})"
    return f"{_verdict(line):6} {line.work}: {ours}{peer}{_ratios(line)}"


def write_report(
    file: Path,
    lines: Mapping[str, Sequence[Line]],
    left_out: Mapping[str, str],
    bench: Bench,
    command: Sequence[str],
) -> None:
    """Write the table; `lines` and `left_out` are by the names of the rows."""
    text = [
        "# Results of `make bench`\n",
        "Medians of repeated, interleaved runs, with the fastest and the slowest in brackets. What",
        "is timed is said by the docstrings of the functions in `benchmarks/`; ratios count,",
        "absolute times are for orientation.\n",
        "| row | work | espnet3 | compared with | | ratio | allowed | | runs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in lines.items():
        text += [_table_line(name, line) for line in found]
    text += [f"| {name} | left out: {why} | | | | | | | |" for name, why in left_out.items()]
    text += ["", *(f"- {fact}" for fact in _facts(bench, command))]
    file.write_text("\n".join(text) + "\n")


def _table_line(name: str, line: Line) -> str:
    ratio = "" if line.ratio is None else f"{_short(line.ratio)} {TIMES}"
    allowed = (
        "" if line.allowed is None else f"{line.allowed:g} {TIMES if line.against else line.unit}"
    )
    peer = f"{_figure(line.peer)} {line.unit} ({_spread(line.peer)})" if line.peer else ""
    work = f"{line.work} ({line.note})" if line.note else line.work
    ours = f"{_figure(line.ours)} {line.unit} ({_spread(line.ours)})"
    cells = [name, work, ours, line.against, peer, ratio, allowed, _verdict(line), len(line.ours)]
    return f"| {' | '.join(map(str, cells))} |"


def _verdict(line: Line) -> str:
    return {True: "kept", False: "MISSED", None: ""}[line.kept]


def _ratios(line: Line) -> str:
    if line.ratio is None:
        return f", at most {line.allowed:g}" if line.allowed is not None else ""
    allowed = "" if line.allowed is None else f", at most {line.allowed:g}"
    return f" | {_short(line.ratio)} {TIMES}{allowed}"


def _figure(values: Sequence[float]) -> str:
    return _short(statistics.median(values))


def _spread(values: Sequence[float]) -> str:
    return f"{_short(min(values))} to {_short(max(values))}"


def _short(value: float) -> str:
    """Three digits.

    >>> _short(0.01234), _short(12.345), _short(12345.6)
    ('0.0123', '12.3', '12,346')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _facts(bench: Bench, command: Sequence[str]) -> list[str]:
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = ", ".join(f"{value:.1f}" for value in _LOAD)
    return [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, `{' '.join(command)}`, "
        f"commit {_said('git', 'rev-parse', '--short', 'HEAD')}",
        f"espnet3 {espnet3.__version__}, Python {platform.python_version()}, "
        f"{', '.join(packages)}, {_said('/usr/sbin/slurmctld', '-V')}; peers: {_peers()}",
        f"{os.cpu_count()} cores ({_processor()}), {memory:.0f} GB, {platform.system()} "
        f"{platform.release()}, {_disk(bench.folder)}, load before: {load}",
    ]


def _said(*command: str) -> str:
    """What a command says on one line; "" where it is not there."""
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return " ".join(done.stdout.split())


def _peers() -> str:
    pinned = (Path(__file__).parent / "peers.txt").read_text().splitlines()
    return ", ".join(line.replace("==", " ") for line in pinned if not line.startswith("#"))


def _processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.machine()


def _disk(folder: Path) -> str:
    """The file system and the kind of disk below a folder."""
    words = _said("findmnt", "--noheadings", "--output=FSTYPE,SOURCE", f"--target={folder}").split()
    if len(words) != 2:
        return "disk unknown"
    kind, source = words
    rotates = _said("lsblk", "--noheadings", "--nodeps", "--output=ROTA", source.partition("[")[0])
    told = {"0": "no rotating disk", "1": "a disk that says it rotates"}.get(rotates, "")
    return f"{kind} on {source}{f' ({told})' if told else ''}"
