"""The real Slurm at work: how long until everything is computed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import espnet3.submit.jobqueue  # noqa: F401  # what `submit` imports when it is needed
from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.submit import OPTIONS
from benchmarks.work import NoEnv, Sleep
from espnet3.specs import layout
from espnet3.submit import submit
from tests.support.debian import install
from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

N_CPUS = 16
PACKED = 4  # shards in a job
PAUSE = 0.02  # seconds between two looks


def wait_for_files(folder: Path, count: int, seconds: float = 300.0) -> None:
    """Look until a folder has that many files."""
    deadline = time.monotonic() + seconds
    while sum(name[0] != "." for name in os.listdir(folder)) < count:  # hidden ones are unfinished
        if time.monotonic() > deadline:
            raise SystemExit(f"{folder}: not {count} files after {seconds} s")
        time.sleep(PAUSE)


def compute_here(
    run_dir: str, n_shards: int, seconds: float, shards_per_job: int
) -> dict[str, float]:
    """Submit one item per shard, each of that many seconds, and wait for the last receipt."""
    runner = Sleep(NoEnv({}))
    shape = {"n_workers": N_CPUS, "n_shards": n_shards, "shards_per_job": shards_per_job}
    config = {"env": "slurm", **shape, "preflight": False, "options": OPTIONS}
    began = time.perf_counter()
    asyncio.run(submit(runner, [seconds] * n_shards, run_dir=run_dir, parallel=config))
    wait_for_files(Path(run_dir, layout.RECEIPTS), n_shards)
    return {"seconds": time.perf_counter() - began}


def sleep_here(folder: str, n_tasks: int, command: str) -> dict[str, float]:
    """Submit a bare array and wait for the file that each of its tasks leaves."""
    done = Path(folder, "done")
    done.mkdir()
    wrapped = f"--wrap={command} && : > {done}/$SLURM_ARRAY_TASK_ID"
    array = f"--array=0-{n_tasks - 1}%{N_CPUS}"
    began = time.perf_counter()
    words = ["sbatch", "--parsable", "--mem=100M", "--output=/dev/null", array, wrapped]
    subprocess.run(words, stdout=subprocess.PIPE, check=True)
    wait_for_files(done, n_tasks)
    return {"seconds": time.perf_counter() - began}


def makespan_64(bench: Bench) -> list[Line]:
    """64 items of one second as 64 shards on a Slurm with 16 CPUs, at most 16 at a time.

    Ours: from the call of `espnet3.submit.submit` (after imports, preflight off) to the last
    receipt, by default with a job for each shard, and with `shards_per_job: 4`, as is meant for
    short shards. Bare: from `sbatch --array=0-63%16 --wrap 'sleep 1 && : > done/…'` to the last of
    those files. The same with Python in place of sleep (`python -c 'time.sleep(1)'`, nothing
    imported) tells what this host's cores let any Python program reach.

    A start is computed, and Slurm's CPUs are pretended. Where the host has fewer cores than that,
    the starts of a job for each shard wait for each other as on no cluster. There its limit is that
    of items which are longer by as much: of eight seconds where two cores stand for sixteen.
    """
    n_shards, stretch = (16, 1) if bench.quick else (64, max(1, N_CPUS // (os.cpu_count() or 1)))
    install(PROGRAMS)
    # A cluster of its own: the other one's queue is full of what waits.
    where = bench.new_folder()
    cluster = bench.keep(SlurmCluster(where / "slurm", cpus=N_CPUS))
    before = dict(bench.environ)
    bench.environ |= cluster.env

    def ours(seconds: float, shards_per_job: int) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            run_dir = str(bench.new_folder() / "run")
            figures = bench.child(compute_here, run_dir, n_shards, seconds, shards_per_job)
            cluster.wait_until_idle()
            return figures

        return measure

    def bare(command: str) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            folder = bench.new_folder()
            figures = bench.child(sleep_here, str(folder), n_shards, command)
            cluster.wait_until_idle()
            return figures

        return measure

    python = bare(f"{sys.executable} -I -c 'import time; time.sleep(1)'")
    try:
        sides = {"ours": ours(1, 1), "packed": ours(1, PACKED), "peer": bare("sleep 1")}
        found = interleaved(bench.runs(7), **sides, python=python)
        if stretch > 1:
            sides = {"long": ours(stretch, 1), "long peer": bare(f"sleep {stretch}")}
            found |= interleaved(bench.runs(3), **sides)
    finally:
        bench.environ = before
    seconds = {side: figures["seconds"] for side, figures in found.items()}
    at_once = f"as {n_shards} shards, {N_CPUS} at a time: makespan"
    work = f"{n_shards} one-second items {at_once}"
    packed = f"{work}, {PACKED} shards in a job"
    against = "a bare array of sleep 1"
    lines = [
        Line(work, seconds["ours"], "s", None if stretch > 1 else 1.25, against, seconds["peer"]),
        Line(work, seconds["ours"], "s", None, "a bare array of Python", seconds["python"]),
        Line(packed, seconds["packed"], "s", 1.25, against, seconds["peer"]),
    ]
    if stretch > 1:
        work = f"{n_shards} items of {stretch} seconds {at_once}"
        against = f"a bare array of sleep {stretch}"
        lines.append(Line(work, seconds["long"], "s", 1.25, against, seconds["long peer"]))
    return lines
