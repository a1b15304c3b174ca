"""What an item costs: the synchronous mode beside Dask's own `map` and a process pool."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.work import Increment, NoEnv
from espnet3.parallel import set_parallel
from espnet3.parallel.parallel import get_client, parallel_map

N_WORKERS = 2
CHUNK = 1000


def increment(number: int) -> int:
    return number + 1


def _measure(run: Callable[[], Any], n_items: int, *, warm_up: bool) -> dict[str, float]:
    """Microseconds per item, the second time, or the first one where nothing has to warm up."""
    expected = [*range(1, n_items + 1)]
    for _ in range(1 + warm_up):
        began = time.perf_counter()
        results = run()
        seconds = time.perf_counter() - began
        if results != expected:
            raise SystemExit("the results are wrong")
    return {"µs": 1e6 * seconds / n_items}


def runner_here(n_items: int) -> dict[str, float]:
    """A runner in the synchronous mode."""
    set_parallel({"env": "local", "n_workers": N_WORKERS})
    increments = Increment(NoEnv({}))
    try:
        return _measure(lambda: list(increments(range(n_items))), n_items, warm_up=True)
    finally:
        set_parallel(None)


def low_level_here(n_items: int) -> dict[str, float]:
    """`parallel_map`."""
    with get_client({"env": "local", "n_workers": N_WORKERS}) as client:
        return _measure(
            lambda: parallel_map(increment, range(n_items), client=client), n_items, warm_up=True
        )


def dask_map_here(n_items: int) -> dict[str, float]:
    """`client.map` and `gather`; it takes minutes, beside which nothing needs to warm up."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        return _measure(
            lambda: list(client.gather(client.map(increment, range(n_items), pure=False))),
            n_items,
            warm_up=False,
        )


def pool_here(n_items: int) -> dict[str, float]:
    """`ProcessPoolExecutor.map` with a chunk size."""
    with ProcessPoolExecutor(N_WORKERS) as executor:
        return _measure(
            lambda: [*executor.map(increment, range(n_items), chunksize=CHUNK)],
            n_items,
            warm_up=True,
        )


def sync(bench: Bench) -> list[Line]:
    """100,000 trivial items on two local worker processes, per item.

    Ours: a runner's call in the synchronous mode, and `parallel_map`. Beside them
    `ProcessPoolExecutor.map` with chunks of 1,000, and `client.map` with `gather`, which is done
    only once since it takes minutes. Each in a process of its own; starting the workers is not
    counted, nor is a first call.
    """
    n_items = bench.size(100_000)

    def side(function: Callable[[int], dict[str, float]]) -> Callable[[], dict[str, float]]:
        return lambda: bench.child(function, n_items)

    found = interleaved(
        bench.runs(5),
        ours=side(runner_here),
        low_level=side(low_level_here),
        pool=side(pool_here),
    )
    ours, low_level, pool = (found[name]["µs"] for name in ("ours", "low_level", "pool"))
    dask = interleaved(1, dask=side(dask_map_here))["dask"]["µs"]
    work = f"synchronous mode, {n_items:,} trivial items, per item"
    against = f"ProcessPoolExecutor.map, chunks of {CHUNK:,}"
    return [
        Line(work, ours, "µs", 1 / 50, "client.map and gather", dask),
        Line(work, ours, "µs", 5, against, pool),
        Line(
            f"parallel_map, {n_items:,} trivial items, per item", low_level, "µs", 5, against, pool
        ),
    ]
