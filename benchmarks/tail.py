"""The dynamic schedule on a real Slurm: items of very different length, and a model to load."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import espnet3.submit.jobqueue  # noqa: F401  # what `submit` imports when it is needed
from benchmarks.makespan import N_CPUS, wait_for_files
from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.submit import OPTIONS
from benchmarks.work import LOAD, Load, Sleep
from espnet3.specs import layout
from espnet3.submit import submit
from tests.support.debian import install
from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

N_ITEMS, SHORTEST, LONGEST, IN_ALL = 320, 0.01, 7.4, 132.0  # items and seconds
QUICK = 0.1  # the part of these seconds that a quick run takes


def lengths(scale: float = 1.0) -> list[float]:
    """Seconds of each item, sorted; a few are long, as utterances are in a sorted list.

    >>> seconds = lengths()
    >>> len(seconds), round(seconds[0], 2), round(seconds[-1], 2), round(sum(seconds))
    (320, 0.01, 7.4, 132)
    """

    def made(power: float) -> list[float]:
        places = (i / (N_ITEMS - 1) for i in range(N_ITEMS))
        return [SHORTEST + (LONGEST - SHORTEST) * place**power for place in places]

    low, high = 1.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if sum(made(middle)) > IN_ALL else (low, middle)
    return [round(scale * seconds, 4) for seconds in made(low)]


def bound(scale: float = 1.0) -> float:
    """Seconds that no schedule can beat: the model, and a fair share or the longest item."""
    seconds = lengths(scale)
    return LOAD + max(sum(seconds) / N_CPUS, max(seconds))


def compute_here(
    run_dir: str, scale: float, keys: dict[str, Any], every: float = 0.0
) -> dict[str, float]:
    """Submit the items and wait for the last receipt.

    Args:
        run_dir: where to.
        scale: of the items' seconds.
        keys: of the parallel config.
        every: a random running job is requeued whenever so many seconds are over; 0 for never.
    """
    runner = Sleep(Load({}))
    seconds = lengths(scale)
    keys = {**keys, **({"weights": seconds} if keys.get("weights") else {})}
    config = {"env": "slurm", "n_workers": N_CPUS, "preflight": False, "options": OPTIONS, **keys}
    began = time.perf_counter()
    asyncio.run(submit(runner, seconds, run_dir=run_dir, parallel=config))
    n_shards = len(list(Path(run_dir, layout.SHARDS).iterdir()))
    with requeue_now_and_then(every) as requeued:
        wait_for_files(Path(run_dir, layout.RECEIPTS), n_shards)
        seconds_taken = time.perf_counter() - began
    return {"seconds": seconds_taken, "requeued": requeued[0]}


@contextlib.contextmanager
def requeue_now_and_then(every: float) -> Iterator[list[int]]:
    """Requeue a random running worker whenever so many seconds are over; 0 for never.

    Yields:
        A list of one: how many were requeued.
    """
    count, ended = [0], threading.Event()
    disturber = threading.Thread(target=_requeue, args=(every, ended, count))
    if every:
        disturber.start()
    try:
        yield count
    finally:
        ended.set()
        if every:
            disturber.join()


def _requeue(every: float, ended: threading.Event, count: list[int]) -> None:
    chance = random.Random(0)
    queue = ["squeue", "--noheader", "--array", "--states=RUNNING", "--format=%i"]
    while not ended.wait(every):
        said = subprocess.run(queue, capture_output=True, text=True, check=False).stdout.split()
        # Any of all workers: of those left in the end, one alone would be met each time, and an
        # item that takes longer than that is never computed.
        task = f"_{chance.randrange(N_CPUS)}"
        for job in (job for job in said if job.endswith(task)):
            words = ["scontrol", "requeue", job]
            done = subprocess.run(words, capture_output=True, check=False)  # it may just have ended
            count[0] += done.returncode == 0


def tail(bench: Bench) -> list[Line]:
    """320 items of 0.01 to 7.4 s, sorted, 132 s in all, on 16 CPUs; a model that loads in 2 s.

    From the call of `espnet3.submit.submit` (after imports, preflight off) to the last receipt; the
    bound is the model's seconds and, of the items, a sixteenth of all or the longest.
    """
    scale = QUICK if bench.quick else 1.0
    install(PROGRAMS)
    where = bench.new_folder()
    cluster = bench.keep(SlurmCluster(where / "slurm", cpus=N_CPUS))
    before = dict(bench.environ)
    bench.environ |= cluster.env

    def side(**keys: Any) -> Callable[[], dict[str, float]]:
        def measure() -> dict[str, float]:
            run_dir = str(bench.new_folder() / "run")
            figures = bench.child(compute_here, run_dir, scale, keys)
            cluster.wait_until_idle()
            return figures

        return measure

    dynamic: dict[str, Any] = {"schedule": "dynamic"}
    try:
        found = interleaved(
            bench.runs(3),
            weights=side(**dynamic, weights=True),
            default=side(**dynamic),
            few_shards=side(**dynamic, n_shards=N_CPUS),
            static=side(n_shards=N_CPUS),
        )
    finally:
        bench.environ = before
    seconds = {name: figures["seconds"] for name, figures in found.items()}
    against, least = "the bound", [bound(scale)]
    work = f"{N_ITEMS} sorted items, {N_CPUS} workers"
    return [
        Line(f"{work}, dynamic, weights", seconds["weights"], "s", 1.35, against, least),
        Line(f"{work}, dynamic, no weights", seconds["default"], "s", 1.6, against, least),
        Line(f"{work}, dynamic, 16 shards", seconds["few_shards"], "s", 1.6, against, least),
        Line(f"{work}, static, 16 shards", seconds["static"], "s", None, against, least),
    ]
