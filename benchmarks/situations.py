"""Ten situations, the static schedule beside the dynamic one, with more shards than workers."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import espnet3.submit.jobqueue  # noqa: F401  # what `submit` imports when it is needed
from benchmarks.makespan import N_CPUS
from benchmarks.measuring import ROOT, Bench, Line, interleaved
from benchmarks.report import as_text
from benchmarks.s3 import BUCKET, s3_server
from benchmarks.submit import OPTIONS
from benchmarks.tail import lengths, requeue_now_and_then
from benchmarks.tail_beside import EVERY, TAKEN, TAKEN_FOR, own_cluster
from benchmarks.work import Load, NoEnv, Sleep
from espnet3.run_dir.directory import RunDirectory
from espnet3.submit import submit
from tests.support.debian import install
from tests.support.slurm_cluster import SlurmCluster

S3_LATENCY, DISK_LATENCY = 0.05, 0.002  # seconds; the disk's in each direction
SFTP = "/usr/lib/openssh/sftp-server"
PAUSE = 0.1  # seconds between two looks


class Situation(NamedTuple):
    """What is computed, and where.

    Attributes:
        name: in the table.
        seconds: of each item.
        n_shards: more than there are workers.
        loads: whether there is a model to load.
        keys: of the parallel config.
        taken: whether most CPUs are somebody else's at first.
        preempted: whether random workers are requeued.
        storage: where the run directory is: `disk`, `s3` or `sshfs`.
    """

    name: str
    seconds: list[float]
    n_shards: int
    loads: bool = False
    keys: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    taken: bool = False
    preempted: bool = False
    storage: str = "disk"


def situations(scale: float = 1.0) -> list[Situation]:
    """The ten of them; all but two on the Slurm of 16 CPUs and its local disk.

    >>> len(situations())
    10
    """
    tail = lengths(scale)
    short, long = [0.2 * scale] * 320, [5.0 * scale] * 32
    # A worker has 60 s for shards, and so computes three of them; there are eight for each.
    hour = {"n_workers": 4, "options": {"walltime": "00:02:00"}, "finish": True}
    return [
        Situation("short shards, no model", short, 160),
        Situation("short shards, a model of 2 s", short, 160, True),
        Situation("long shards, a model of 2 s", long, 32, True),
        Situation("320 sorted items, a model of 2 s", tail, 160, True),
        Situation("… 12 of 16 CPUs taken for 25 s", tail, 160, True, taken=True),
        Situation("… a random worker requeued every 5 s", tail, 160, True, preempted=True),
        Situation("a thousand shards of 10 ms", [0.01 * scale] * 1000, 1000),
        Situation("walltimes that hold few shards", [20.0 * scale] * 32, 32, keys=hour),
        Situation("S3, 50 ms a request", short, 160, storage="s3"),
        Situation("sshfs, 4 ms an operation", short, 160, storage="sshfs"),
    ]


def compute_here(
    run_dir: str, index: int, scale: float, schedule: str, log_directory: str
) -> dict[str, float]:
    """Submit one situation's items and wait for the last receipt."""
    situation = situations(scale)[index]
    runner = Sleep((Load if situation.loads else NoEnv)({}))
    options = {**OPTIONS, "log_directory": log_directory, **situation.keys.get("options", {})}
    config = {
        "env": "slurm", "n_workers": N_CPUS, "n_shards": situation.n_shards, "preflight": False,
        "schedule": schedule, **situation.keys, "options": options,
    }  # fmt: skip
    with requeue_now_and_then(EVERY if situation.preempted else 0.0) as requeued:
        began = time.perf_counter()
        asyncio.run(submit(runner, situation.seconds, run_dir=run_dir, parallel=config))
        directory = RunDirectory.open(run_dir)
        while len(directory.receipts(situation.n_shards).done) < situation.n_shards:
            time.sleep(PAUSE)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "requeued": requeued[0]}


@contextlib.contextmanager
def _sshfs(bench: Bench) -> Iterator[Path]:
    """A folder of this host, mounted as one of a distant host's."""
    install({"/usr/bin/sshfs": "sshfs", SFTP: "openssh-sftp-server"})
    where = bench.new_folder()
    folder, connection = where / "mounted", where / "ssh"
    (where / "disk").mkdir()
    folder.mkdir()
    late = f"cd {ROOT} && exec {sys.executable} -m benchmarks.late_pipe {DISK_LATENCY}"
    connection.write_text(f"#!/bin/sh\n{late} {SFTP}\n")
    connection.chmod(0o755)
    options = f"ssh_command={connection},entry_timeout=1,attr_timeout=1,negative_timeout=0"
    subprocess.run(["sshfs", f"host:{where / 'disk'}", folder, "-o", options], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["fusermount", "-uz", folder], check=False)


@contextlib.contextmanager
def _storage(bench: Bench, kind: str) -> Iterator[Callable[[], str]]:
    """Makes names of run directories on that storage."""

    def name(root: str) -> str:
        return f"{root}/{time.time_ns()}"

    if kind == "s3":
        before = dict(bench.environ)
        with s3_server(bench, S3_LATENCY) as environ:
            bench.environ |= environ
            try:
                yield lambda: name(f"s3://{BUCKET}")
            finally:
                bench.environ = before
    elif kind == "sshfs":
        with _sshfs(bench) as folder:
            yield lambda: name(str(folder))
    else:
        folder = bench.new_folder()
        yield lambda: name(str(folder))


def _take_most(cluster: SlurmCluster, seconds: float) -> None:
    words = [f"--cpus-per-task={TAKEN}", "--mem=100M", "--output=/dev/null"]
    cluster.run("sbatch", *words, f"--wrap=sleep {seconds}")
    cluster.wait_until(
        lambda: any(job.state == "RUNNING" for job in cluster.jobs()), "nobody has CPUs"
    )


def situations_of_schedules(bench: Bench) -> list[Line]:
    """Static beside dynamic in ten situations, both with the same shards, more than workers.

    A real Slurm of 16 CPUs; items sleep. From the call of `espnet3.submit.submit` (after imports,
    preflight off) to the last receipt. Static: a task for each shard, 16 at a time. Dynamic: 16
    workers. With walltimes that hold few shards there are 4 workers, `walltime` is two minutes, and
    finishers submit what is left, in both.
    """
    scale = 0.1 if bench.quick else 1.0
    lines = []
    for index, situation in enumerate(situations(scale)):
        with own_cluster(bench) as cluster, _storage(bench, situation.storage) as new:

            def side(
                schedule: str,
                index: int = index,
                situation: Situation = situation,
                cluster: SlurmCluster = cluster,
                new: Callable[[], str] = new,
            ) -> Callable[[], dict[str, float]]:
                def measure() -> dict[str, float]:
                    if situation.taken:
                        _take_most(cluster, TAKEN_FOR * scale)
                    arguments = (new(), index, scale, schedule, str(bench.new_folder()))
                    figures = bench.child(compute_here, *arguments)
                    cluster.wait_until_idle()
                    return figures

                return measure

            found = interleaved(bench.runs(1), dynamic=side("dynamic"), static=side("static"))
        ours, peer = found["dynamic"]["seconds"], found["static"]["seconds"]
        work = f"{situation.name}, {situation.n_shards} shards: dynamic"
        lines.append(Line(work, ours, "s", None, "static", peer))
        print(
            f"  {as_text(lines[-1])}", file=sys.stderr, flush=True
        )  # it takes a quarter of an hour
    return lines
