"""Dask for experiments that need direct control: clients, worker environments, parallel loops.

The names are those of ESPnet3 in late 2025; `build_client` and `build_local_gpu_cluster` are its
names of 2026 for the same functions.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from distributed import Client, Status, WorkerPlugin

from espnet3.config.model import ParallelConfig, as_parallel_config
from espnet3.errors import ConfigError
from espnet3.parallel.clusters import make_cluster
from espnet3.parallel.clusters import make_local_gpu_cluster as make_local_gpu_cluster
from espnet3.parallel.config import get_parallel_config as get_parallel_config
from espnet3.parallel.config import set_parallel as set_parallel
from espnet3.parallel.dask_tasks import run_batches
from espnet3.parallel.dask_worker_env import (
    ENV,
    DictReturnWorkerPlugin,
    env_names,
    require_no_conflict,
)
from espnet3.parallel.dask_worker_env import wrap_func_with_worker_env as wrap_func_with_worker_env
from espnet3.parallel.dask_worker_prints import show_prints
from espnet3.parallel.dask_worker_process import WorkerProcess
from espnet3.parallel.dask_worker_watch import wait_for_a_worker
from espnet3.parallel.waiting_words import calm_distributed, tell_dashboard

# That of the innermost `with get_client(...)`, and the process that it is of.
_open_client: ContextVar[tuple[int, Client] | None] = ContextVar("_open_client", default=None)


class EspnetClient(Client):
    """A Dask client that keeps the plugin call of ESPnet3's guide.

    Attributes:
        parallel_config: what its cluster was made from.
    """

    parallel_config: ParallelConfig | None = None

    def register_worker_plugin(self, plugin: WorkerPlugin, name: str | None = None) -> Any:
        """Register a worker plugin; `Client.register_plugin` under its former name."""
        return self.register_plugin(plugin, name=name)


def make_client(config: Any = None) -> EspnetClient:
    """Start a Dask cluster and connect to it.

    Args:
        config: a parallel config of any kind; what `set_parallel` set where unset.

    Returns:
        A client; its `cluster` is closed by `get_client`, or by you.

    Raises:
        ConfigError: there is no config, or it is wrong.
        SubmissionRefused: the scheduler refused the workers' jobs.
        SchedulerUnavailable: it gave no answer to them.
        NoWorkers: the cluster got no worker within `start_timeout` seconds.
    """
    parallel = get_parallel_config() if config is None else as_parallel_config(config)
    if parallel is None:
        raise ConfigError("parallel", "is not set; call set_parallel or pass a config")
    calm_distributed()
    with contextlib.ExitStack() as undo:
        cluster = make_cluster(parallel)
        undo.callback(close_cluster, cluster)
        client = EspnetClient(cluster, set_as_default=False)
        client.parallel_config = parallel
        undo.callback(close_client, client)
        client.register_plugin(WorkerProcess())
        show_prints(client, keep=parallel.env not in ("local", "local_gpu"))
        tell_dashboard(client)
        wait_for_a_worker(client, parallel)
        undo.pop_all()
    return client


def close_client(client: Client) -> None:
    """Close a client and its cluster; nothing of it runs or queues afterwards."""
    cluster = client.cluster
    with contextlib.suppress(TimeoutError, OSError):
        client.close()
    if cluster is not None:
        close_cluster(cluster)


def close_cluster(cluster: Any) -> None:
    """Close a cluster, also where a submit command ends while it is closed.

    Ctrl-C at a terminal ends the submit commands too, and the first error ends Dask's close.
    """
    with _calm_nannies():
        _close(cluster)


@contextlib.contextmanager
def _calm_nannies() -> Iterator[None]:
    """A worker that takes its time to end is killed, and that is not news to whoever closes it."""
    logger = logging.getLogger("distributed.nanny")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _close(cluster: Any) -> None:
    for again in (True, True, False):
        if cluster.status == Status.closing:  # an earlier try: the next would wait for its end
            cluster.status = Status.running
        try:
            cluster.close()
        except Exception:  # of a scheduler's commands; raised where it lasts
            if not again:
                raise
            # What failed is kept, and would end each try.
            kept: set[Any] = getattr(cluster, "_futures", set())
            kept.difference_update([future for future in kept if future.done()])
        else:
            return


@contextlib.contextmanager
def get_client(
    config: Any = None, setup_fn: Callable[[], dict[str, Any]] | None = None
) -> Iterator[EspnetClient]:
    """A client for a `with` block; client and cluster are closed at its end.

    `parallel_map` and `parallel_for` use it within the block, where they are given no other.

    Args:
        config: a parallel config of any kind; what `set_parallel` set where unset.
        setup_fn: builds the environment of each worker.

    Example:
        >>> with get_client({"env": "local", "n_workers": 2}) as client:  # doctest: +SKIP
        ...     list(parallel_for(user_func, range(10), client=client))
    """
    client = make_client(config)
    before = _open_client.get()
    try:
        if setup_fn is not None:
            client.register_plugin(DictReturnWorkerPlugin(setup_fn), name=ENV)
        _open_client.set((os.getpid(), client))
        yield client
    finally:
        _open_client.set(before)
        close_client(client)


def parallel_map(
    func: Callable[..., Any],
    data: Iterable[Any],
    client: Client | None = None,
    setup_fn: Callable[[], dict[str, Any]] | None = None,
    **kwargs: Any,
) -> list[Any]:
    """Call a function for every element of `data`; the results in the order of `data`.

    Args:
        func: called with an element, `kwargs` and the entries of the environment that it names.
        data: the elements.
        client: a Dask client; that of the `with get_client(...)` around the call where unset, or
            else one is made and closed.
        setup_fn: builds the environment of each worker.
        **kwargs: for every call.

    Raises:
        ValueError: an entry of `kwargs` is in the environment, too.
        Exception: what `func` raised, with the element and the remote traceback as notes.

    Example:
        >>> parallel_map(pow, [1, 2, 3], exp=2)  # doctest: +SKIP
        [1, 4, 9]
    """
    elements = data if isinstance(data, Sequence) else list(data)
    results: list[Any] = [None] * len(elements)
    with _ready(client, setup_fn, kwargs) as ready:
        for first, values in run_batches(ready, func, elements, kwargs, total=len(elements)):
            results[first : first + len(values)] = values
    return results


def parallel_for(
    func: Callable[..., Any],
    args: Iterable[Any],
    client: Client | None = None,
    setup_fn: Callable[[], dict[str, Any]] | None = None,
    **kwargs: Any,
) -> Iterator[Any]:
    """Call a function for every element of `args`; results as they are completed.

    A bounded number of elements is under way at a time, so `args` may be endless. Arguments and
    errors are those of `parallel_map`.
    """
    client = client or _client_around()
    if client is not None:
        _prepare(client, setup_fn, kwargs)
        setup_fn = None
    return _parallel_for(func, args, client, setup_fn, kwargs)


def _parallel_for(
    func: Callable[..., Any],
    args: Iterable[Any],
    client: Client | None,
    setup_fn: Callable[[], dict[str, Any]] | None,
    kwargs: Mapping[str, Any],
) -> Iterator[Any]:
    total = len(args) if isinstance(args, Sequence) else None
    with contextlib.ExitStack() as stack:
        if client is None:
            client = stack.enter_context(_ready(None, setup_fn, kwargs))
        for _, values in run_batches(client, func, args, kwargs, total=total):
            yield from values


@contextlib.contextmanager
def _ready(
    client: Client | None,
    setup_fn: Callable[[], dict[str, Any]] | None,
    kwargs: Mapping[str, Any],
) -> Iterator[Client]:
    """A client whose workers have the environment; conflicts are found before anything is sent."""
    client = client or _client_around()
    if client is None:
        with get_client() as made:
            _prepare(made, setup_fn, kwargs)
            yield made
        return
    _prepare(client, setup_fn, kwargs)
    yield client


def _client_around() -> Client | None:
    """The client of the `with get_client(...)` around this call; a forked process has none."""
    pid, client = _open_client.get() or (None, None)
    return client if pid == os.getpid() else None


def _prepare(
    client: Client, setup_fn: Callable[[], dict[str, Any]] | None, kwargs: Mapping[str, Any]
) -> None:
    if setup_fn is not None:
        client.register_plugin(DictReturnWorkerPlugin(setup_fn), name=ENV)
    _check_conflicts(client, kwargs)


def _check_conflicts(client: Client, kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        names = client.submit(env_names, pure=False).result()
        require_no_conflict(set(names) & kwargs.keys())


build_client = make_client
build_local_gpu_cluster = make_local_gpu_cluster

__all__ = [
    "DictReturnWorkerPlugin",
    "ParallelConfig",
    "build_client",
    "build_local_gpu_cluster",
    "get_client",
    "get_parallel_config",
    "make_client",
    "make_local_gpu_cluster",
    "parallel_for",
    "parallel_map",
    "set_parallel",
    "wrap_func_with_worker_env",
]
