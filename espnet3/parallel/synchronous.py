"""The runner's synchronous mode: a shared Dask client that lives from call to call."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from distributed import Client, get_worker

from espnet3.config.model import ParallelConfig
from espnet3.errors import SchedulerError, UsageError
from espnet3.parallel.caller_state import StateFollower
from espnet3.parallel.class_state import CallWithEnvironment, ClassStates, Setup, class_states
from espnet3.parallel.config import when_set
from espnet3.parallel.dask_tasks import run_batches
from espnet3.parallel.dask_worker_env import ENV, DictReturnWorkerPlugin
from espnet3.parallel.parallel import close_client, make_client
from espnet3.parallel.pickles import dumps
from espnet3.parallel.progress_bar import progress_bar
from espnet3.text import visible


class SharedClient:
    """The process's client for one parallel config, with one provider's environment."""

    def __init__(self, config: ParallelConfig) -> None:
        self.config = config
        self.client: Client = make_client(config)
        self._state = StateFollower()
        self._provider: Any = None
        self._built = b""

    def share_state(self) -> None:
        """Give the workers what has changed of this process's state since the last call."""
        news = self._state.news()
        if news is not None:
            self.client.register_plugin(news)

    def use_environment(self, provider: Any, runner_states: ClassStates) -> None:
        """Build a provider's environment on every worker, unless nothing of it has changed.

        Nothing has where it is the last call's provider, and what would be sent is the same: its
        config, its attributes, those of its classes, the code and globals of a script.
        """
        states, setup_fn = class_states(type(provider)), provider.make_worker_setup_fn()
        built = hashlib.sha256(dumps((setup_fn, states))).digest()
        if provider is not self._provider or built != self._built:
            self._provider = None  # until it is built, nothing is
            plugin = DictReturnWorkerPlugin(Setup(setup_fn, (*states, *runner_states)))
            self.client.register_plugin(plugin, name=ENV)
            self._provider, self._built = provider, built

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


def within_a_task() -> bool:
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
        Exception: as `on_workers`.
    """
    if within_a_task():
        here: list[Any] = runner._run_here(items, show_progress=False)
        return here
    results: list[Any] = [None] * len(items)

    def take(first: int, values: list[Any]) -> int:
        results[first : first + len(values)] = values
        return len(values)

    n, forward = len(items), runner.forward
    on_workers(runner, forward, items, config, take, total=n, show_progress=show_progress)
    return results


def on_workers(
    runner: Any,
    call: Callable[..., Any],
    elements: Sequence[Any],
    config: ParallelConfig,
    take: Callable[[int, list[Any]], int],
    *,
    total: int,
    show_progress: bool,
    one_by_one: bool = False,
) -> None:
    """Call a function on the shared client, for each element, with the provider's environment.

    Args:
        runner: whose environment and classes the workers get.
        call: called with an element and the environment's entries.
        elements: the elements.
        config: the parallel config.
        take: called with an element's position, and the results of it and of those that follow; as
            they are completed. Says how many items these were.
        total: how many items there are.
        show_progress: whether to show a progress bar.
        one_by_one: whether each element is a Dask task, which may take long: where one fails, the
            others end with their workers.

    Raises:
        Exception: what the function raised, with the element and the remote traceback as notes.
        WorkersKilled: an element keeps killing workers.
        NoWorkers: the cluster got no worker in time, or lost all and got no other.
        UsageError: this process was forked from one that has a shared client.
    """
    with _one_call:
        try:
            shared = shared_client(config)
            shared.share_state()
            states = class_states(type(runner))
            shared.use_environment(runner.provider, states)
            sent = CallWithEnvironment(call, states)
            n = len(elements)
            batches = run_batches(shared.client, sent, elements, {}, total=n, one_by_one=one_by_one)
            title = visible(type(runner).__name__)
            with (
                contextlib.closing(batches),  # a traceback would keep it, and what is under way
                progress_bar(title, total, shown=show_progress) as advance,
            ):
                for first, values in batches:
                    advance(take(first, values))
        except BaseException as error:
            # No worker and no queued job stays behind, and nothing that is long under way.
            if one_by_one or isinstance(error, KeyboardInterrupt | SchedulerError):
                close_shared_client()
            raise
