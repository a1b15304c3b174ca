"""The runner's synchronous mode: a shared Dask client that lives from call to call."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from distributed import Client, WorkerPlugin, get_worker

from espnet3.parallel.batches import run_batches
from espnet3.parallel.config import when_set
from espnet3.parallel.parallel import close_client, make_client
from espnet3.parallel.worker_env import ENV, DictReturnWorkerPlugin
from espnet3.specs.config import ParallelConfig
from espnet3.specs.errors import SchedulerError, UsageError
from espnet3.specs.paths import absolute
from espnet3.specs.visible import visible


class ImportPathPlugin(WorkerPlugin):
    """Gives workers the driver's import path, so that they find the user's modules."""

    name = "espnet3-import-path"

    def __init__(self, entries: list[str]) -> None:
        self.entries = entries

    def setup(self, worker: Any) -> None:
        """Add what this worker lacks."""
        sys.path.extend(entry for entry in self.entries if entry not in sys.path)


class CallWithEnvironment:
    """Calls `forward` with all of the environment, as local mode does."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self.forward = forward

    def __call__(self, item: Any, /, **env: Any) -> Any:  # whatever names the environment has
        return self.forward(item, **env)


class SharedClient:
    """The process's client for one parallel config, with one provider's environment."""

    def __init__(self, config: ParallelConfig) -> None:
        self.config = config
        self.client: Client = make_client(config)
        self._provider: Any = None
        self._import_path: list[str] = []

    def share_import_path(self) -> None:
        """Give the workers what `sys.path` has, also what it got since the last call."""
        entries = [absolute(entry) for entry in sys.path]
        if entries != self._import_path:
            self.client.register_plugin(ImportPathPlugin(entries))
            self._import_path = entries

    def use_environment(self, provider: Any) -> None:
        """Build a provider's environment on every worker, unless it is the last one's."""
        if provider is not self._provider:
            self._provider = None  # until it is built, nothing is
            plugin = DictReturnWorkerPlugin(provider.make_worker_setup_fn())
            self.client.register_plugin(plugin, name=ENV)
            self._provider = provider

    def close(self) -> None:
        """Close the client and its cluster."""
        close_client(self.client)


_shared: SharedClient | None = None
_one_call = threading.RLock()  # at a time: workers have one environment
_of_the_parent: list[SharedClient] = []


def _after_fork() -> None:
    """In a forked process: the client stays the parent's, and lives as long as that wants it."""
    global _shared, _one_call
    if _shared is not None:
        # Neither collected nor closed at exit: both would wait for threads that were not forked.
        _of_the_parent.append(_shared)
        cluster: Any = _shared.client.cluster
        cluster.shutdown_on_close = False
    _shared, _one_call = None, threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def shared_client(config: ParallelConfig) -> SharedClient:
    """The shared client, made anew where the config has changed."""
    global _shared
    if _shared is not None and (
        _shared.config != config or _shared.client.status not in ("running", "connecting")
    ):
        close_shared_client()
    if _of_the_parent:
        raise UsageError(
            "this process was forked from one with Dask workers and cannot have its own; call "
            "set_parallel(None) in it, or start it with the method spawn"
        )
    if _shared is None:
        _shared = SharedClient(config)
    return _shared


@atexit.register
def close_shared_client() -> None:
    """Close the shared client, if there is one; also called when the process ends."""
    global _shared
    if _shared is not None:
        closing, _shared = _shared, None
        closing.close()


@when_set
def _follow(config: ParallelConfig | None) -> None:
    """Close the shared client when `set_parallel` sets another config."""
    with _one_call:
        if _shared is not None and _shared.config != config:
            close_shared_client()


def _within_a_task() -> bool:
    """Whether this is called by a Dask task, whose worker would wait for itself."""
    try:
        get_worker()
    except ValueError:
        return False
    return True


def run_synchronously(
    runner: Any, items: Sequence[Any], config: ParallelConfig, *, show_progress: bool
) -> list[Any]:
    """Run a runner's `forward` over items on the shared client.

    Args:
        runner: an instance of a BaseRunner subclass.
        items: what `forward` is called with.
        config: the parallel config.
        show_progress: whether to show a progress bar.

    Returns:
        The results in the items' order.

    Raises:
        Exception: what `forward` raised, with the item and the remote traceback as notes.
        WorkersKilled: an item keeps killing workers.
        NoWorkers: the cluster got no worker in time, or lost all and got no other.
        UsageError: this process was forked from one that has a shared client.
    """
    if _within_a_task():
        here: list[Any] = runner._run_here(items, show_progress=False)
        return here
    with _one_call:
        try:
            shared = shared_client(config)
            shared.share_import_path()
            shared.use_environment(runner.provider)
            results: list[Any] = [None] * len(items)
            forward = CallWithEnvironment(runner.forward)
            batches = run_batches(shared.client, forward, items, {}, total=len(items))
            title = type(runner).__name__
            for first, values in _progress(batches, title, len(items), show_progress):
                results[first : first + len(values)] = values
        except (KeyboardInterrupt, SchedulerError):
            close_shared_client()  # no worker and no queued job stays behind
            raise
    return results


def _progress(
    batches: Iterable[tuple[int, list[Any]]], title: str, total: int, shown: bool
) -> Iterable[tuple[int, list[Any]]]:
    if not shown:
        yield from batches
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task(visible(title), total=total)
        for first, values in batches:
            progress.advance(task, len(values))
            yield first, values
