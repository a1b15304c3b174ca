"""On the nodes: what a worker process, a further shard and an item cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson

from benchmarks.measuring import Bench, BenchmarkFailed, Line, NotThere, interleaved
from benchmarks.runs import forget_results, worker_command, write_run
from espnet3.specs import layout


def worker_of_task_0(bench: Bench, run_dir: Path, n_shards: int) -> Callable[[], dict[str, float]]:
    """Runs the worker of task 0 from the beginning, and sees that it did its work."""

    def measure() -> dict[str, float]:
        forget_results(run_dir)
        done = bench.process(*worker_command(run_dir, 0))
        if len([*Path(run_dir, layout.RECEIPTS).iterdir()]) != n_shards:
            raise BenchmarkFailed("the worker did not finish")
        return {"seconds": done.seconds, "peak": done.peak}

    return measure


def worker_start(bench: Bench) -> list[Line]:
    """A worker process for one trivial shard: wall clock from spawn to reaped.

    Ours: `python -P -m espnet3.worker RUN 0001 --task 0` of a prepared run of one item. Submitit's:
    `python -u -m submitit.core._submit FOLDER` of a pickled trivial call, prepared with its own
    classes, with the variables that its executor sets. Bare: `python -c pass`. All with compiled
    bytecode, after a run that is not counted.
    """
    run_dir = bench.new_folder() / "run"
    write_run(run_dir, 1, 1)
    ours = worker_of_task_0(bench, run_dir, 1)

    def bare() -> dict[str, float]:
        return {"seconds": bench.process(sys.executable, "-c", "pass").seconds}

    sides: dict[str, Callable[[], dict[str, float]]] = {"ours": ours, "bare": bare}
    try:
        python, folder = bench.peers, bench.new_folder()
    except NotThere:
        note = "submitit is not there"
    else:
        note = ""
        job = {"JOB_ID": "1", "NTASKS": "1", "JOB_NUM_NODES": "1", "NODEID": "0"}
        ranks = {"GLOBALID": "0", "LOCALID": "0"}
        environ = {f"SUBMITIT_LOCAL_{name}": value for name, value in (job | ranks).items()}
        environ |= {"SUBMITIT_EXECUTOR": "local"}

        def submitit() -> dict[str, float]:
            bench.submitit("prepare", folder, "1")
            result = next(iter(folder.rglob("*result.pkl")), None)
            if result is not None:
                result.unlink()
            command: list[str | Path] = [python, "-u", "-m", "submitit.core._submit", folder]
            seconds = bench.process(*command, environ=environ).seconds
            if not [*folder.rglob("*result.pkl")]:
                raise BenchmarkFailed("submitit's worker left no result")
            return {"seconds": seconds}

        sides["peer"] = submitit
    interleaved(1, **sides)
    found = {side: figures["seconds"] for side, figures in
             interleaved(bench.runs(15), **sides).items()}  # fmt: skip
    work = "worker process for one trivial shard"
    ms = {side: [1000 * value for value in values] for side, values in found.items()}
    against = "submitit's for one trivial call"
    return [
        Line(work, ms["ours"], "ms", 0.6, against, ms.get("peer", ()), note),
        Line(work, ms["ours"], "ms", None, "python -c pass", ms["bare"]),
    ]


def further_shard(bench: Bench) -> list[Line]:
    """Each further shard of the same task, on the disk of the benchmarks' folder.

    In one worker process for a task of 101 shards of one item: from the first receipt to the last
    one, by their times of modification, a hundredth.
    """
    run_dir, n_shards = bench.new_folder() / "run", 101
    write_run(run_dir, n_shards, n_shards, shards_per_job=n_shards)
    compute = worker_of_task_0(bench, run_dir, n_shards)

    def ours() -> dict[str, float]:
        compute()
        files = Path(run_dir, layout.RECEIPTS).iterdir()
        written = sorted(file.stat().st_mtime_ns for file in files)
        return {"ms": (written[-1] - written[0]) / 1e6 / (n_shards - 1)}

    interleaved(1, ours=ours)
    each = interleaved(bench.runs(9), ours=ours)["ours"]["ms"]
    return [Line("each further shard in the same task", each, "ms", 5)]


def bare_loop(file: str, n_items: int) -> dict[str, float]:
    """One `orjson.dumps` and one buffered write per item; nothing is made durable."""
    dumps, newline = orjson.dumps, orjson.OPT_APPEND_NEWLINE
    began = time.perf_counter()
    with open(file, "wb") as output:
        for i in range(n_items):
            output.write(dumps({"item": i, "result": i}, option=newline))
    return {"seconds": time.perf_counter() - began}


def million_items(bench: Bench) -> list[Line]:
    """A shard of 1,000,000 trivial items with a checkpoint every second.

    Ours: the wall clock of a worker process less that of a worker for a shard of one item. Bare: a
    loop of `orjson.dumps({"item": …, "result": …})` and `write` to a buffered file, in process,
    that makes nothing durable. Memory: the worker's resident peak beside that for a tenth of the
    items.
    """
    n_items = bench.size(1_000_000)
    folder = bench.new_folder()
    sizes = {"one": 1, "tenth": n_items // 10, "ours": n_items}
    sides: dict[str, Callable[[], dict[str, float]]] = {}
    for side, size in sizes.items():
        write_run(folder / side, size, 1, checkpoint_every=1.0)
        sides[side] = worker_of_task_0(bench, folder / side, 1)
    sides["peer"] = lambda: bench.child(bare_loop, str(folder / "lines"), n_items)
    found = interleaved(bench.runs(5), **sides)
    pairs = zip(found["ours"]["seconds"], found["one"]["seconds"], strict=True)
    each = [1e6 * (all_items - one) / n_items for all_items, one in pairs]
    bare = [1e6 * seconds / n_items for seconds in found["peer"]["seconds"]]
    work = f"a shard of {n_items:,} trivial items"
    peaks = found["ours"]["peak"], found["tenth"]["peak"]
    against = f"that for {sizes['tenth']:,} items"
    return [
        Line(f"{work}, per item", each, "µs", 3, "a loop of orjson.dumps and write", bare),
        Line(f"{work}: resident peak", peaks[0], "MB", 1.05, against, peaks[1]),
    ]
