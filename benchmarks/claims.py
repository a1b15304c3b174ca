"""Claims of the dynamic schedule: what one costs in operations of the store, and in time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import Bench, BenchmarkFailed, Line, interleaved
from benchmarks.runs import worker_command, write_run
from benchmarks.scaling import MEMORY
from espnet3.specs import layout
from tests.support.many_workers import CLAIM, SHARD, SIGN, Counted, count_claims

N_WORKERS, N_SHARDS = 64, 10_000
N_PROCESSES, EACH = 8, 100  # shards for each process


def count(n_workers: int = N_WORKERS, n_shards: int = N_SHARDS, seconds: float = 20.0) -> Counted:
    """Count what workers do that live in made-up time."""
    memory = MEMORY if MEMORY.is_dir() else None  # counts are the same there, and fsyncs fast
    with tempfile.TemporaryDirectory(prefix="claims-", dir=memory) as folder:
        return count_claims(Path(folder), n_workers, n_shards, seconds=seconds)


def claims_counted(bench: Bench) -> list[Line]:
    """Operations of the store for each shard, 64 workers and 10,000 shards of one item.

    Counted, not timed: the workers are threads in made-up time, in which a shard takes 2 to 38 s
    and workers begin within half a minute and differ by a fifth. Claiming is all that finds and
    takes the next shard, to the end where nothing is left. Lines of their own are signs of life,
    which go by time and not by shards, and what a shard of the static schedule costs too (its
    spec, results and receipt).
    """
    n_workers, n_shards = (8, 200) if bench.quick else (N_WORKERS, N_SHARDS)
    found = count(n_workers, n_shards)
    if found.shards != n_shards:
        raise BenchmarkFailed(f"{found.shards} shards are done, not {n_shards}")
    work = f"{n_workers} workers, {n_shards:,} shards"
    signs, shard = (found.operations[what].total() / n_shards for what in (SIGN, SHARD))
    wasted = found.operations[CLAIM]["create"] - found.claims
    note = f"{wasted:,} creates found their names taken"
    return [
        Line(
            f"{work}: claiming, for each shard", [found.for_each_shard], "operations", 3, note=note
        ),
        Line(f"{work}: listings for 100 claims", [found.listings], "listings", 1),
        Line(f"{work}: signs of life, for each shard of 20 s", [signs], "operations"),
        Line(f"{work}: the shard itself", [shard], "operations"),
    ]


def claim_throughput(bench: Bench) -> list[Line]:
    """800 trivial shards by 8 processes on local disk, with claims and without.

    From the first receipt to the last one, by their times of modification, for each further shard
    of the run. Dynamic: 8 workers that claim. Static: 8 tasks of 100 shards each.
    """
    n_shards = N_PROCESSES * (10 if bench.quick else EACH)

    def side(schedule: str) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            run_dir = bench.new_folder() / "run"
            keys: dict[str, Any] = {"schedule": schedule, "n_workers": N_PROCESSES}
            if schedule == "static":
                keys["shards_per_job"] = n_shards // N_PROCESSES
            write_run(run_dir, n_shards, n_shards, **keys)
            processes = [
                subprocess.Popen(
                    worker_command(run_dir, task), cwd="/", env=bench.environ,
                    stderr=subprocess.DEVNULL,
                )
                for task in range(N_PROCESSES)
            ]  # fmt: skip
            codes = [process.wait() for process in processes]
            files = [*Path(run_dir, layout.RECEIPTS).iterdir()]
            if any(codes) or len(files) != n_shards:
                raise BenchmarkFailed(f"{schedule}: {codes}, {len(files)} receipts")
            written = sorted(file.stat().st_mtime_ns for file in files)
            return {"ms": (written[-1] - written[0]) / 1e6 / (n_shards - 1)}

        return measure

    found = interleaved(bench.runs(7), dynamic=side("dynamic"), static=side("static"))
    work = f"a further shard, {N_PROCESSES} processes that claim"
    against = "the same with a static schedule"
    return [Line(work, found["dynamic"]["ms"], "ms", 1.5, against, found["static"]["ms"])]
