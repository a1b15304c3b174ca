"""`python -m benchmarks.scaling`: how costs grow with shards and items; writes docs/scaling.*.

Constants are measured on small ladders, in a few minutes: system calls and requests in process, by
the counters that `tests/integration/test_growth.py` guards; memory and CPU time of the login node's
commands in processes of their own, against a real Slurm whose jobs stay pending. `--only counts`
and `--only login` measure the one and keep the other, `--only draw` makes tables and plots anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import login_node, scaling_plots, scaling_report
from benchmarks.measuring import ROOT, NotThere
from espnet3.specs.models import now
from tests.support import counting, guard
from tests.support.debian import PackagesUnavailableError

TRACED = (10, 100, 1000)
REQUESTED = (5, 20, 50)
COUNTED = (5, 10, 20)
MEMORY = Path("/dev/shm")  # counts are the same there, and fsyncs fast


# --- what is counted ------------------------------------------------------------------------------


def counts() -> dict[str, Any]:
    """Everything that is the same each time."""
    found: dict[str, Any] = {
        "store operations": _ladder(counting.store_operations, COUNTED),
        "requests": _ladder(counting.requests, REQUESTED),
        "disk": disk(),
        "bytes per item": bytes_per_item(),
    }
    if counting.has_strace():
        found["system calls"] = _ladder(counting.system_calls, TRACED)
        few, many = (
            _in_folder(counting.system_calls, n, shards_per_job=n)[counting.WORK] for n in (10, 60)
        )
        found["further shard"] = {kind: (many[kind] - few[kind]) / 50 for kind in many}
    return found


def _in_folder(count: Callable[..., Any], n: int, **keys: Any) -> Any:
    print(f"  {count.__name__} of {n:,} shards", file=sys.stderr)
    memory = None if count is counting.files_and_bytes or not MEMORY.is_dir() else MEMORY
    with tempfile.TemporaryDirectory(prefix="growth-", dir=memory) as folder:
        return count(Path(folder), n, **keys)


def _ladder(count: Callable[..., dict[str, Counter[str]]], sizes: tuple[int, ...]) -> Any:
    """`x`, and for each step and kind the counts at these sizes."""
    found = [_in_folder(count, n) for n in sizes]
    steps = {
        step: {
            kind: [counts[step][kind] for counts in found]
            for kind in sorted({kind for counts in found for kind in counts[step]})
        }
        for step in found[-1]
    }
    return {"x": list(sizes), "steps": steps}


def disk() -> dict[str, float]:
    """Files, bytes and bytes of blocks of a run of one item per shard, for each shard."""
    few, many = (_in_folder(counting.files_and_bytes, n) for n in (100, 200))
    return {name: (many[name] - few[name]) / 100 for name in sorted(many) if many[name] > few[name]}


def bytes_per_item() -> dict[str, float]:
    """Bytes of shard specs and of result files for each item, between 2,000 and 4,000 of them."""
    kinds: dict[str, Callable[[int], list[Any] | range]] = {
        "a range": lambda n: range(1_000_000, 1_000_000 + n),
        "integers": lambda n: [1_000_000 + i * i for i in range(n)],
        "names": lambda n: [f"{login_node.NAME[:-4]}{i:04d}" for i in range(n)],
    }
    found = {}
    for kind, make in kinds.items():
        few, many = (_in_folder(counting.files_and_bytes, 2, items=make(n)) for n in (2000, 4000))
        for part in ("shards", "results"):
            found[f"{part}, {kind}"] = (many[f"bytes.{part}"] - few[f"bytes.{part}"]) / 2000
    return found


def about() -> dict[str, str]:
    """Where and when it was measured."""
    said = subprocess.run(
        ["git", "log", "-1", "--format=%h"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "commit": said.stdout.strip(),
        "date": f"{now():%Y-%m-%d}",
        "host": f"{os.cpu_count()} cores, Linux {platform.release().partition('-')[0]}, "
        f"Python {platform.python_version()}",
    }


def _write(data: dict[str, Any]) -> None:
    scaling_report.DATA.write_text(json.dumps(data, indent=1) + "\n")


def main(arguments: list[str]) -> int:
    """Measure, and write docs/scaling.json, the tables of docs/scaling.md and the plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--only", choices=("counts", "login", "draw"), help="do not measure all")
    parser.add_argument("--folder", help="where to work; its disk is measured")
    options = parser.parse_args(arguments)
    data = scaling_report.read()
    if options.only in (None, "counts"):
        data |= {"about": about(), **counts()}
        _write(data)
    if options.only in (None, "login"):
        try:
            with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
                data["login"] = login_node.ladders(Path(folder))
        except (NotThere, PackagesUnavailableError) as missing:
            print(f"the login node is left as it was: {missing}", file=sys.stderr)
    _write(data)
    scaling_report.write_tables(data)
    worse = scaling_report.worse_than_linear(data)
    print("\n".join(worse) or "nothing grows faster than linearly")
    scaling_plots.draw(data)
    return 1 if worse else 0


if __name__ == "__main__":
    guard.watch()
    sys.exit(main(sys.argv[1:]))
