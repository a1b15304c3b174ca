"""The workload of `tail` beside its peers, with few CPUs at first, and with preempted workers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator

from benchmarks.makespan import N_CPUS
from benchmarks.measuring import Bench, BenchmarkFailed, Line, interleaved
from benchmarks.submit import OPTIONS
from benchmarks.tail import N_ITEMS, QUICK, compute_here, lengths
from benchmarks.work import LOAD
from tests.support.debian import install
from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

TAKEN, TAKEN_FOR = 12, 25.0  # CPUs that somebody else has at first, and seconds
EVERY = 5.0  # seconds between two requeued workers
DYNAMIC = {"schedule": "dynamic"}
WORK = f"{N_ITEMS} sorted items, {N_CPUS} workers, dynamic"
_loaded = False  # in a process of Dask: whether the model is there


def few_bound(scale: float = 1.0) -> float:
    """Seconds that no schedule can beat where most CPUs are free only after a while.

    Each CPU loads the model before it computes; no item is begun before that, nor cut.
    """
    seconds = lengths(scale)
    first, taken_for = N_CPUS - TAKEN, TAKEN_FOR * scale
    work = sum(seconds)
    alone = LOAD + work / first
    if alone <= taken_for + LOAD:  # the others would only just have loaded it
        return max(alone, LOAD + max(seconds))
    left = work - first * taken_for  # at the moment when the others begin to compute
    return max(taken_for + LOAD + left / N_CPUS, LOAD + max(seconds))


def sleep_once_loaded(seconds: float) -> float:
    """What a worker of Dask does for an item; the first one loads the model."""
    global _loaded
    if not _loaded:
        time.sleep(LOAD)
        _loaded = True
    time.sleep(seconds)
    return seconds


def dask_here(scale: float) -> dict[str, float]:
    """`client.map` on Slurm's workers, from the making of the cluster to the last result."""
    from espnet3.parallel.parallel import get_client

    seconds = lengths(scale)
    options = {**OPTIONS, "memory": "500MB"}  # a worker of Dask needs more than ours
    config = {"env": "slurm", "n_workers": N_CPUS, "options": options}
    began = time.perf_counter()
    with get_client(config) as client:
        results = client.gather(client.map(sleep_once_loaded, seconds, pure=False))
        taken = time.perf_counter() - began
    if list(results) != seconds:
        raise SystemExit("the results are wrong")
    return {"seconds": taken}


@contextlib.contextmanager
def own_cluster(bench: Bench) -> Iterator[SlurmCluster]:
    """A Slurm of its own: the other one's queue is full of what waits."""
    install(PROGRAMS)
    cluster: SlurmCluster = bench.keep(SlurmCluster(bench.new_folder() / "slurm", cpus=N_CPUS))
    before = dict(bench.environ)
    bench.environ |= cluster.env
    try:
        yield cluster
    finally:
        bench.environ = before


def _ours(
    bench: Bench, cluster: SlurmCluster, scale: float, every: float = 0.0
) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        run_dir = str(bench.new_folder() / "run")
        figures = bench.child(compute_here, run_dir, scale, DYNAMIC, every)
        cluster.wait_until_idle()
        return figures

    return measure


def tail_peers(bench: Bench) -> list[Line]:
    """`tail` without weights and with the usual shards, beside Dask and submitit on 16 CPUs.

    Ours as in `tail`. Dask: from `get_client` of the synchronous mode, which makes a
    `SLURMCluster` of 16 workers, to the end of `client.gather(client.map(…))`; its driver lives,
    and each worker loads the model with its first item. Submitit: from `map_array` of 16 chunks of
    equally many items, of which each loads the model, to the last file of results.
    """
    scale = QUICK if bench.quick else 1.0
    seconds = json.dumps(lengths(scale))
    with own_cluster(bench) as cluster:

        def after(measure: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
            def both() -> dict[str, float]:
                figures = measure()
                cluster.wait_until_idle()
                return figures

            return both

        found = interleaved(
            bench.runs(3),
            ours=_ours(bench, cluster, scale),
            dask=after(lambda: bench.child(dask_here, scale)),
            submitit=after(lambda: bench.submitit("tail", bench.new_folder(), seconds)),
        )
    ours = found["ours"]["seconds"]
    return [
        Line(WORK, ours, "s", 1.0, "client.map on 16 workers", found["dask"]["seconds"]),
        Line(WORK, ours, "s", 0.35, "submitit, 16 chunks", found["submitit"]["seconds"]),
    ]


def few(bench: Bench) -> list[Line]:
    """`tail` without weights where somebody else's job has 12 of the 16 CPUs for 25 s.

    The bound is what four CPUs can compute until then, and all 16 from then on, of which each
    loads the model first. It counts from the submission; the other job has begun just before.
    """
    scale = QUICK if bench.quick else 1.0
    with own_cluster(bench) as cluster:
        ours = _ours(bench, cluster, scale)

        def measure() -> dict[str, float]:
            words = [f"--cpus-per-task={TAKEN}", "--mem=100M", "--output=/dev/null"]
            cluster.run("sbatch", *words, f"--wrap=sleep {TAKEN_FOR * scale}")
            cluster.wait_until(
                lambda: any(job.state == "RUNNING" for job in cluster.jobs()), "nobody has CPUs"
            )
            return ours()

        seconds = interleaved(bench.runs(3), ours=measure)["ours"]["seconds"]
    work = f"{WORK}; {TAKEN} CPUs taken for {TAKEN_FOR:g} s"
    return [Line(work, seconds, "s", 1.35, "the bound", [few_bound(scale)])]


def preempt(bench: Bench) -> list[Line]:
    """`tail` without weights, a random running worker being requeued every 5 s; undisturbed beside.

    By `scontrol requeue` of one task of the array, from the submission on to the last receipt.
    """
    scale = QUICK if bench.quick else 1.0
    with own_cluster(bench) as cluster:
        found = interleaved(
            bench.runs(3),
            disturbed=_ours(bench, cluster, scale, EVERY * (0.3 if bench.quick else 1)),
            undisturbed=_ours(bench, cluster, scale),
        )
    disturbed, undisturbed = found["disturbed"], found["undisturbed"]
    requeued = sum(disturbed["requeued"])
    if not requeued:
        raise BenchmarkFailed("no worker was requeued")
    note = f"{requeued:g} requeued in all"
    work = f"{WORK}, one requeued every {EVERY:g} s"
    against = "undisturbed"
    return [Line(work, disturbed["seconds"], "s", 1.5, against, undisturbed["seconds"], note)]
