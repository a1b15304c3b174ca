"""Afterwards: collecting to a file beside `cat`, to a table, to a list beside `orjson.loads`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import orjson

from benchmarks.measuring import Bench, Line, fill_memory, interleaved, remove
from benchmarks.runs import finish_shards, write_run
from espnet3.collect import collect  # here, as the package imports it when it is asked for it
from espnet3.specs import layout


def finished_run(bench: Bench, n_items: int, n_shards: int) -> Path:
    """A run directory with all results, in the page cache."""
    run_dir = bench.new_folder() / "run"
    write_run(run_dir, n_items, n_shards)
    finish_shards(run_dir, range(n_shards))
    return run_dir


def _result_files(run_dir: str) -> list[str]:
    folder = Path(run_dir, layout.RESULTS)
    return sorted(str(file) for file in folder.iterdir())


def to_file(run_dir: str, output: str, n_items: int) -> dict[str, float]:
    """Collect to a file."""
    began = time.perf_counter()
    done = asyncio.run(collect(run_dir, output))
    seconds = time.perf_counter() - began
    if done.records != n_items:
        raise SystemExit("records are missing")
    return {"seconds": seconds}


def cat(run_dir: str, output: str, n_items: int) -> dict[str, float]:
    """Concatenate the same files with `cat`, then fsync."""
    files = _result_files(run_dir)
    began = time.perf_counter()
    with open(output, "wb") as file:
        subprocess.run(["cat", *files], stdout=file, check=True)
        os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - began}


def _beside(bench: Bench, run_dir: Path, n_items: int, ours: Any, peer: Any) -> Any:
    """Two ways to a new file on the same disk, in turn."""

    def side(function: Any) -> Any:
        def measure() -> dict[str, float]:
            output = bench.new_folder()
            fill_memory(200 * n_items)
            figures = bench.child(function, str(run_dir), str(output / "all"), n_items)
            remove(output)
            return figures

        return measure

    os.sync()
    return interleaved(bench.runs(5), ours=side(ours), peer=side(peer))


def collect_file(bench: Bench) -> list[Line]:
    """Collecting 10,000,000 records in 1,000 shards to one file.

    Ours: `espnet3.collect.collect(RUN, FILE)` in process after imports, every byte verified. Bare:
    `cat` of the same result files to a file on the same disk. Both end with an fsync of the file
    and read from the page cache; the output is a new file each time, for which there is memory that
    was in use just before. Memory: the resident peak of the collecting process (VmHWM), imports
    included.
    """
    n_items, n_shards = bench.size(10_000_000), bench.size(1000)
    run_dir = finished_run(bench, n_items, n_shards)

    found = _beside(bench, run_dir, n_items, to_file, cat)
    work = f"collect {n_items:,} records in {n_shards:,} shards to one file"
    against, ours = "cat of the same files", found["ours"]
    return [
        Line(work, ours["seconds"], "s", 2, against, found["peer"]["seconds"]),
        Line(f"{work}: resident peak", ours["peak"], "MB", 100),
    ]


def to_parquet(run_dir: str, output: str, n_items: int) -> dict[str, float]:
    """Collect to a Parquet file."""
    import pyarrow.parquet

    from espnet3.collect import table_files  # noqa: F401 (`collect` imports it when it needs it)

    figures = to_file(run_dir, f"{output}.parquet", n_items)
    table = pyarrow.parquet.ParquetFile(f"{output}.parquet")
    if table.metadata.num_rows != n_items:
        raise SystemExit("rows are missing")
    return figures


def collect_parquet(bench: Bench) -> list[Line]:
    """Collecting 10,000,000 records in 1,000 shards to one Parquet file.

    Ours: `espnet3.collect.collect(RUN, FILE)` in process after imports, pyarrow's included, every
    byte verified, to a file of columns `item` and `result`. Beside: the same to JSON lines, as
    `collect-file` measures it.
    """
    n_items, n_shards = bench.size(10_000_000), bench.size(1000)
    run_dir = finished_run(bench, n_items, n_shards)

    found = _beside(bench, run_dir, n_items, to_parquet, to_file)
    work = f"collect {n_items:,} records in {n_shards:,} shards to Parquet"
    ours = found["ours"]
    return [
        Line(work, ours["seconds"], "s", 3, "the same to JSON lines", found["peer"]["seconds"]),
        Line(f"{work}: resident peak", ours["peak"], "MB", 400),
    ]


def to_list(run_dir: str, n_items: int) -> dict[str, float]:
    """Collect to a list."""
    began = time.perf_counter()
    results = asyncio.run(collect(run_dir))
    seconds = time.perf_counter() - began
    if len(results) != n_items or results[-1] != n_items - 1:
        raise SystemExit("the results are wrong")
    return {"seconds": seconds}


def load_lines(run_dir: str, n_items: int) -> dict[str, float]:
    """Decode the same lines in a bare loop, and keep the results."""
    loads, files = orjson.loads, _result_files(run_dir)
    results = []
    began = time.perf_counter()
    for name in files:
        with open(name, "rb") as file:
            for line in file:
                results.append(loads(line)["result"])
    seconds = time.perf_counter() - began
    if len(results) != n_items:
        raise SystemExit("results are missing")
    return {"seconds": seconds}


def collect_list(bench: Bench) -> list[Line]:
    """Collecting 1,000,000 records in 100 shards to a list.

    Ours: `espnet3.collect.collect(RUN)` in process after imports, every byte verified. Bare: for
    each line of the same files, `orjson.loads` and an append of its result. Per record.
    """
    n_items = bench.size(1_000_000)
    run_dir = finished_run(bench, n_items, bench.size(100))
    found = interleaved(
        bench.runs(7),
        ours=lambda: bench.child(to_list, str(run_dir), n_items),
        peer=lambda: bench.child(load_lines, str(run_dir), n_items),
    )
    ours, peer = ([1e6 * s / n_items for s in found[side]["seconds"]] for side in ("ours", "peer"))
    work = f"collect {n_items:,} records to a list, per record"
    return [Line(work, ours, "µs", 1.3, "a loop of orjson.loads over the same lines", peer)]
