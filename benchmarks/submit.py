"""On the login node: submit, status, resume. Beside submitit, bare sbatch, and bare looking."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import espnet3.collect
import espnet3.submit
from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.runs import fail_shard, finish_shards
from benchmarks.work import NoEnv, Trivial
from espnet3.specs import layout
from espnet3.specs.models import AcceptedJobs, decode

# Of a shard's job; the array's throttle is the number of shards, so that it has none.
OPTIONS = {"cores": 1, "processes": 1, "memory": "100MB", "walltime": "00:10:00"}


def parallel(n_shards: int) -> dict[str, Any]:
    """The parallel config of all runs here."""
    shape = {"n_workers": n_shards, "n_shards": n_shards}
    return {"env": "slurm", **shape, "preflight": False, "options": OPTIONS}


def submit_here(run_dir: str, n_shards: int, finish: bool = False) -> dict[str, float]:
    """Submit a run of one item per shard, after a run of one shard has imported everything."""

    async def both() -> float:
        runner = Trivial(NoEnv({}))
        small = {**parallel(1), "finish": finish}
        await espnet3.submit.submit(runner, range(1), run_dir=f"{run_dir}.1", parallel=small)
        config = {**parallel(n_shards), "finish": finish}
        began = time.perf_counter()
        submitted = await espnet3.submit.submit(
            runner, range(n_shards), run_dir=run_dir, parallel=config
        )
        seconds = time.perf_counter() - began
        if len(submitted.ranks) != n_shards:
            raise SystemExit("not all shards were submitted")
        return seconds

    return {"seconds": asyncio.run(both())}


def _ours(bench: Bench, n_shards: int, *, finish: bool = False) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        folder = bench.new_folder()
        figures = bench.child(submit_here, str(folder / "run"), n_shards, finish)
        bench.cancel_all()
        return figures

    return measure


def submit_1000(bench: Bench) -> list[Line]:
    """Submitting 1,000 shards of one item.

    Ours: `espnet3.submit.submit` from call to return, preflight off, specs and receipts of the jobs
    on disk. Submitit's: `map_array` of 1,000 calls, from call to return. Each in a process of its
    own that has made one small submission before, so that imports are done. Bare: one `sbatch
    --wrap` per shard, one after another; 100 are measured, and scaled. Disk: 1,000 files of 300
    bytes, created and fsynced one after another, which submitit does not do. The jobs stay pending,
    since the partition is down; they are cancelled before the next run.
    """
    bench.slurm()
    n_shards, sample = bench.size(1000), bench.size(100)

    def submitit() -> dict[str, float]:
        folder = bench.new_folder()
        figures = bench.submitit("submit", folder, str(n_shards))
        bench.cancel_all()
        return figures

    def sbatch() -> dict[str, float]:
        command = ["sbatch", "--parsable", "--output=/dev/null", "--wrap=true"]
        began = time.perf_counter()
        for _ in range(sample):
            subprocess.run(command, env=bench.environ, stdout=subprocess.PIPE, check=True)
        seconds = (time.perf_counter() - began) * n_shards / sample
        bench.cancel_all()
        return {"seconds": seconds}

    def disk() -> dict[str, float]:
        folder = bench.new_folder()
        began = time.perf_counter()
        for i in range(n_shards):
            with (folder / f"{i:06d}").open("xb", 0) as file:
                file.write(b"x" * 300)
                os.fsync(file.fileno())
        seconds = time.perf_counter() - began
        return {"seconds": seconds}

    ours = _ours(bench, n_shards)
    finishing = _ours(bench, n_shards, finish=True)
    found = interleaved(bench.runs(7), ours=ours, finish=finishing, peer=submitit, disk=disk)
    bare = interleaved(bench.runs(3), ours=ours, peer=sbatch)
    work = f"submit {n_shards:,} shards to Slurm"
    against = f"submitit map_array of {n_shards:,}"
    return [
        Line(work, found["ours"]["seconds"], "s", 0.5, against, found["peer"]["seconds"]),
        Line(
            f"{work}, with finish: true",
            found["finish"]["seconds"],
            "s",
            0.5,
            against,
            found["peer"]["seconds"],
        ),
        Line(
            work,
            bare["ours"]["seconds"],
            "s",
            None,
            "one sbatch per shard",
            bare["peer"]["seconds"],
            f"{sample} measured, scaled",
        ),
        Line(
            work,
            found["ours"]["seconds"],
            "s",
            None,
            "the disk: a file and fsync per shard",
            found["disk"]["seconds"],
        ),
    ]


def submit_10000(bench: Bench) -> list[Line]:
    """Submitting 10,000 shards (ten arrays at MaxArraySize 1001), as `submit_1000` does.

    Beside its own 1,000; and the resident peak of the submitting process (VmHWM), imports included.
    """
    bench.slurm()
    many, few = bench.size(10_000), bench.size(1000)
    found = interleaved(bench.runs(5), ours=_ours(bench, many), peer=_ours(bench, few))
    work, ours = f"submit {many:,} shards to Slurm", found["ours"]
    return [
        Line(work, ours["seconds"], "s", 10, f"its own {few:,}", found["peer"]["seconds"]),
        Line(f"{work}: resident peak", ours["peak"], "MB", 150),
    ]


def submitted_run(bench: Bench, n_shards: int) -> Path:
    """A run directory whose jobs are pending at the scheduler."""
    run_dir = bench.new_folder() / "run"
    bench.child(submit_here, str(run_dir), n_shards)
    return run_dir


def status_here(run_dir: str, repetitions: int) -> dict[str, float]:
    """Ask for the status once, then that often; the mean of these."""

    async def several() -> float:
        await espnet3.collect.status(run_dir)
        began = time.perf_counter()
        for _ in range(repetitions):
            await espnet3.collect.status(run_dir)
        return (time.perf_counter() - began) / repetitions

    return {"seconds": asyncio.run(several())}


def look_here(run_dir: str, repetitions: int) -> dict[str, float]:
    """List the receipts and ask squeue once for the same jobs in the same form; the mean."""
    path = Path(run_dir, layout.accepted_jobs(1))
    jobs = ",".join(job.job_id for job in decode(AcceptedJobs, path.read_bytes(), "jobs").jobs)
    options = ["--noheader", "--states=all", "--format=%F|%K|%T|%r|%j"]
    command = ["squeue", *options, f"--jobs={jobs}"]
    began = time.perf_counter()
    for _ in range(repetitions):
        with os.scandir(Path(run_dir, layout.RECEIPTS)) as entries:
            names = [entry.name for entry in entries]
        shown = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    seconds = (time.perf_counter() - began) / repetitions
    if not names or not shown:
        raise SystemExit("there was nothing to look at")
    return {"seconds": seconds}


def status_10000(bench: Bench) -> list[Line]:
    """The status of a run of 10,000 shards of which half are done and the other half is queued.

    Ours: `espnet3.collect.status` in process, the second call and later ones. Bare: `os.scandir` of
    its receipts plus one `squeue` for its jobs, with the columns that espnet3 asks for, both in a
    process of their own. And the same for the run once all shards are done, when nobody has to be
    asked.
    """
    bench.slurm()
    n_shards = bench.size(10_000)
    run_dir = submitted_run(bench, n_shards)
    finish_shards(run_dir, range(0, n_shards, 2))

    def ours() -> dict[str, float]:
        return bench.child(status_here, str(run_dir), 3)

    def peer() -> dict[str, float]:
        return bench.child(look_here, str(run_dir), 3)

    half = interleaved(bench.runs(7), ours=ours, peer=peer)
    finish_shards(run_dir, range(1, n_shards, 2))
    bench.cancel_all()
    whole = interleaved(bench.runs(3), ours=ours, peer=peer)
    work, against = f"status of a run of {n_shards:,} shards", "os.scandir and one squeue"
    return [
        Line(
            f"{work}, half done",
            half["ours"]["seconds"],
            "s",
            3,
            against,
            half["peer"]["seconds"],
        ),
        Line(
            f"{work}, done", whole["ours"]["seconds"], "s", None, against, whole["peer"]["seconds"]
        ),
    ]


def resume_here(run_dir: str) -> dict[str, float]:
    """Resume a run, after a run of one shard has imported everything."""

    async def both() -> float:
        runner, config = Trivial(NoEnv({})), parallel(1)
        small = f"{run_dir}.{time.time_ns()}"
        await espnet3.submit.submit(runner, range(1), run_dir=small, parallel=config)
        began = time.perf_counter()
        submitted = await espnet3.submit.resume(run_dir)
        seconds = time.perf_counter() - began
        if submitted.ranks != [0]:
            raise SystemExit(f"submitted {len(submitted.ranks)} shards, not one")
        return seconds

    return {"seconds": asyncio.run(both())}


def resume_one(bench: Bench) -> list[Line]:
    """Resuming a run of 10,000 shards of which one has failed.

    Ours: `espnet3.submit.resume` from call to return. Beside it `espnet3.submit.submit` of a run of
    one shard, both in process after imports and with preflight off. Slurm remembers all jobs of the
    run, as it does for some minutes after their end; this is the worse case.
    """
    bench.slurm()
    n_shards = bench.size(10_000)
    run_dir = submitted_run(bench, n_shards)
    bench.cancel_all()
    finish_shards(run_dir, range(1, n_shards))
    fail_shard(run_dir, 0)

    def ours() -> dict[str, float]:
        figures = bench.child(resume_here, str(run_dir))
        bench.cancel_all()
        for file in Path(run_dir, layout.SUBMISSIONS).glob("0002*"):
            file.unlink()
        return figures

    found = interleaved(bench.runs(7), ours=ours, peer=_ours(bench, 1))
    work = f"resume 1 failed shard in {n_shards:,}, until queued"
    against = "submitting a run of 1 shard"
    return [Line(work, found["ours"]["seconds"], "s", 3, against, found["peer"]["seconds"])]
