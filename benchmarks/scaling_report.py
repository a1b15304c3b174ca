"""The tables of docs/scaling.md, from what was measured (docs/scaling.json)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.measuring import ROOT
from tests.support import counting

DATA = ROOT / "docs/scaling.json"
PAGE = ROOT / "docs/scaling.md"
SIZES = (100, 1000, 10_000, 100_000, 1_000_000)
ITEMS = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
KINDS = ("open", "look", "name", "list", "sync", "data")
REQUESTS = ("PUT", "LIST", "GET", "HEAD", "DELETE")
# USD per request: S3 Standard, us-east-1, as docs/scaling.md says.
PRICES = {"PUT": 0.005 / 1000, "LIST": 0.005 / 1000, "GET": 0.0004 / 1000, "HEAD": 0.0004 / 1000}
BY_ITEMS = ", by items"
ARRAY = 1001  # tasks of an array with Slurm's default MaxArraySize
# A further one that costs that many times what an earlier one did is worse than linear, if all of
# them together cost at least that much: figures jitter. The last is the share of a figure that may
# be jitter.
LIMITS = {"counts": (1.01, 10.0, 0.0), "peak": (1.5, 5.0, 0.0), "cpu": (2.5, 0.2, 0.1)}
Data = dict[str, Any]


class Line(NamedTuple):
    """What a ladder says: a fixed part, a part for each further one, and the last but one of those.

    Attributes:
        fixed: at none.
        each: for each further one, between the two largest sizes.
        before: the same between the two sizes before.
        measured: the largest size.
        whole: what `before` would be if all of the last but one figure had come with the further
            ones.
    """

    fixed: float
    each: float
    before: float
    measured: float
    whole: float = 0.0

    @classmethod
    def through(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """The line through the last two of at least three points; it does not fall."""
        before = (y[-2] - y[-3]) / (x[-2] - x[-3])
        each = max(0.0, (y[-1] - y[-2]) / (x[-1] - x[-2]))
        return cls(y[-1] - each * x[-1], each, before, x[-1], y[-2] / (x[-2] - x[-3]))

    def at(self, n: float) -> float:
        """The value there, extrapolated where n is larger than what was measured."""
        return self.fixed + self.each * n

    def is_worse_than_linear(self, ratio: float, least: float, jitter: float) -> bool:
        """Whether a further one costs more than `ratio` times as much as one did before.

        Args:
            ratio: what is allowed.
            least: what all of them together cost at least, for it to matter.
            jitter: share of a figure that may be jitter.
        """
        all_of_them = self.each * self.measured
        matters = all_of_them > max(least, 0.2 * self.at(self.measured))
        return matters and self.each > ratio * max(self.before, jitter * self.whole)


def read() -> Data:
    """What was measured last; nothing where that was never done."""
    data: Data = json.loads(DATA.read_bytes()) if DATA.exists() else {}
    return data


def lines(ladder: Mapping[str, Any]) -> dict[str, dict[str, Line]]:
    """Step -> kind -> line, of something that was counted."""
    return {
        step: {kind: Line.through(ladder["x"], y) for kind, y in kinds.items()}
        for step, kinds in ladder["steps"].items()
    }


def login_lines(data: Data, figure: str) -> dict[str, Line]:
    """Row -> line, of something on the login node."""
    return {
        row: Line.through(found["x"], found[figure]) for row, found in data.get("login", {}).items()
    }


def worse_than_linear(data: Data) -> list[str]:
    """Everything of which a further one costs more the more there are."""
    found = []
    for what in ("store operations", "system calls", "requests"):
        for step, kinds in lines(data[what]).items():
            found += [
                f"{what}, {step}, {kind}: {line.before:g}, then {line.each:g} for each more"
                for kind, line in kinds.items()
                if line.is_worse_than_linear(*LIMITS["counts"])
            ]
    for figure in ("peak", "cpu"):
        found += [
            f"{figure}, {row}: {line.before:g}, then {line.each:g} for each more"
            for row, line in login_lines(data, figure).items()
            if line.is_worse_than_linear(*LIMITS[figure])
        ]
    return found


# --- tables ---------------------------------------------------------------------------------------


def write_tables(data: Data) -> None:
    """Put the tables between their markers."""
    if PAGE.exists():
        PAGE.write_text(with_tables(PAGE.read_text(), data))


def with_tables(page: str, data: Data) -> str:
    """The page with its tables made anew.

    A table of what was not measured says so.
    """
    made = tables(data)
    return re.sub(
        r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{made.get(found[2], 'Not measured.')}\n\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def tables(data: Data) -> dict[str, str]:
    """Name -> table."""
    found = {
        "requests": _requests(data),
        "disk": _disk(data),
        "items": _items(data),
        "shards": _shards(data),
        "store-operations": _store_operations(data),
        "about": f"Measured on {data['about']['date']} at commit {data['about']['commit']} "
        f"({data['about']['host']}).",
    }
    if "system calls" in data:
        found["system-calls"] = _system_calls(data)
    if "login" in data:
        found["memory"] = _login(data, "peak", "MB")
        found["cpu"] = _login(data, "cpu", "s")
        found["scheduler"] = _scheduler(data)
    return found


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    align = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, align, *rows))


def _number(value: float) -> str:
    """Three digits at most for what is not counted; nothing for nothing."""
    if abs(value) < 1e-9:
        return ""
    if value == int(value) and value < 1e5:
        return f"{value:,.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return (
        f"{rounded:,.{max(0, digits)}f}".rstrip("0").rstrip(".")
        if digits > 0
        else f"{rounded:,.0f}"
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{_number(n_bytes)} {unit}"
        n_bytes /= 1000
    return f"{_number(n_bytes)} TB"


def _short(n: int) -> str:
    return f"{n:,}" if n < 100_000 else f"10^{round(math.log10(n))}"


def _system_calls(data: Data) -> str:
    rows = []
    for step, kinds in lines(data["system calls"]).items():
        each = [kinds[kind].each if kind in kinds else 0.0 for kind in KINDS]
        rows.append([step, *map(_number, each), _number(sum(each)), _fixed(kinds)])
    further = [data["further shard"].get(kind, 0) for kind in KINDS]
    more = ["work, a further shard of a task", *map(_number, further), _number(sum(further)), ""]
    return _table(["step", *KINDS, "each shard", "each run"], [*rows, more])


def _store_operations(data: Data) -> str:
    rows = [
        [
            step,
            ", ".join(f"{kind} {_number(line.each)}" for kind, line in kinds.items() if line.each),
        ]
        for step, kinds in lines(data["store operations"]).items()
    ]
    return _table(["step", "operations for each shard"], [row for row in rows if row[1]])


def _fixed(kinds: Mapping[str, Line]) -> str:
    """What there is without any shard; nothing for the work, of which one shard is not counted."""
    return _number(max(0, sum(line.fixed for line in kinds.values())))


def usd(counts: Mapping[str, float]) -> float:
    """What requests cost."""
    return sum(PRICES.get(kind, 0) * n for kind, n in counts.items())


def _requests(data: Data) -> str:
    rows = []
    for step, kinds in lines(data["requests"]).items():
        each = {kind: line.each for kind, line in kinds.items()}
        prices = _number(1e6 * usd(each))
        rows.append(
            [step, *(_number(each.get(kind, 0)) for kind in REQUESTS), prices, _fixed(kinds)]
        )
    return _table(["step", *REQUESTS, "USD for 10^6 shards", "each run"], rows)


def _disk(data: Data) -> str:
    disk = data["disk"]
    folders = [name.partition(".")[2] for name in disk if name.startswith("files.")]
    rows = [
        [f"`{folder}/`", _number(disk[f"files.{folder}"]), _number(disk[f"bytes.{folder}"])]
        for folder in folders
    ]
    rows.append(["`logs/`, one for each task", "1", _number(disk["log"])])
    total = disk["bytes"] + disk["log"]
    rows.append(["all", _number(disk["files"] + 1), _number(total)])
    return _table(["folder", "files", "bytes"], rows)


def _items(data: Data) -> str:
    each = data["bytes per item"]
    header = ["", "each item", *map(_short, ITEMS)]
    sizes = [
        ("specs, a range", each.get("shards, a range", 0)),
        ("specs, a list of integers", each["shards, integers"]),
        ("specs, a list of names", each["shards, names"]),
        ("results, the item itself (integer)", each["results, a range"]),
        ("results, the item itself (name)", each["results, names"]),
    ]
    rows = [
        [what, f"{_number(n) or '0'} B", *(f"*{_size(n * size)}*" if n else "0" for size in ITEMS)]
        for what, n in sizes
    ]
    for row, line in login_lines(data, "peak").items():
        if row.endswith(BY_ITEMS):
            measured = _measured(data, row, "peak")
            cells = [_cell(line, n, lambda mb: _size(1e6 * mb), measured) for n in ITEMS]
            each_item = _number(max(0, 1e6 * line.each)) or "0"
            rows.append([f"memory, {row.removesuffix(BY_ITEMS)}", f"{each_item} B", *cells])
    for row, line in login_lines(data, "cpu").items():
        if row.endswith(BY_ITEMS):
            cells = [_cell(line, n, _number, _measured(data, row, "cpu")) for n in ITEMS]
            each_item = _number(1e6 * line.each)
            rows.append([f"CPU seconds, {row.removesuffix(BY_ITEMS)}", f"{each_item} µs", *cells])
    return _table(header, rows)


def _cell(line: Line, n: float, show: Any, measured: Mapping[float, float] | None = None) -> str:
    """A value: measured, or in italics where it is extrapolated; nothing between these."""
    if n > line.measured:
        return f"*{show(line.at(n))}*"
    if measured is None:  # counted, and known to be on the line
        return str(show(line.at(n)))
    return str(show(measured[n])) if n in measured else ""


def _measured(data: Data, row: str, figure: str) -> dict[float, float]:
    found = data["login"][row]
    return dict(zip(found["x"], found[figure], strict=True))


def _login(data: Data, figure: str, unit: str) -> str:
    rows = []
    for row, line in login_lines(data, figure).items():
        if row.endswith(BY_ITEMS):
            continue
        measured = _measured(data, row, figure)
        each = f"{_number(1e3 * line.each)} {'kB' if unit == 'MB' else 'ms'}"
        shown = [_cell(line, n, _number, measured) for n in SIZES]
        rows.append([row, *shown, each, _number(line.each / line.before if line.before > 0 else 0)])
    return _table([f"{unit}, at shards", *map(_short, SIZES), "each shard", "ratio"], rows)


def _scheduler(data: Data) -> str:
    rows = []
    for row, found in data["login"].items():
        if row.endswith(BY_ITEMS) or row.startswith("collect"):
            continue
        calls = [name for name in found if name not in ("x", "peak", "cpu", "seconds")]
        shown = []
        for i in range(len(found["x"])):
            shown.append(", ".join(f"{found[c][i]:g} {c}" for c in calls if found[c][i]) or "none")
        rows.append([row, *shown])
    sizes = next(iter(data["login"].values()))["x"]
    return _table(["command", *(f"{n:,} shards" for n in sizes)], rows)


def _shards(data: Data) -> str:
    """A whole life in one view: submit, work, one look, collect."""
    life = (counting.SUBMIT, counting.WORK, counting.DONE, counting.TO_FILE)
    requests = lines(data["requests"])
    disk = data["disk"]
    rows: list[list[str]] = [
        ["files, logs included", *(_size_of_run(n, disk["files"] + 1) for n in SIZES)],
        ["blocks of 4 KiB on ext4", *(f"*{_size(n * disk['blocks'])}*" for n in SIZES)],
    ]
    if "system calls" in data:
        calls = lines(data["system calls"])
        top = data["system calls"]["x"][-1]
        for step in life:
            each = sum(line.each for line in calls[step].values())
            fixed = sum(line.fixed for line in calls[step].values())
            line = Line(fixed, each, each, top)
            rows.append([f"system calls, {step}", *(_cell(line, n, _number) for n in SIZES)])
    for step in life:
        each = usd({kind: line.each for kind, line in requests[step].items()})
        fixed = usd({kind: line.fixed for kind, line in requests[step].items()})
        line = Line(fixed, each, each, data["requests"]["x"][-1])
        rows.append([f"USD on S3, {step}", *(_cell(line, n, _number) for n in SIZES)])
    rows.append(["`sbatch`, one item per task", *(f"{-(-n // ARRAY):,}" for n in SIZES)])
    return _table(["shards", *map(_short, SIZES)], rows)


def _size_of_run(n: int, files: float) -> str:
    return f"*{n * files:,.0f}*"
