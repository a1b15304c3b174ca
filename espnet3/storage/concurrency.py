"""Waiting for storage in threads: much of it at the same time, and never without a bound."""

from __future__ import annotations

import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

AT_ONCE = 0.001  # seconds for an action that has nothing to wait for
A = TypeVar("A")
T = TypeVar("T")


def in_order(action: Callable[[A], T], arguments: Iterable[A], n_threads: int) -> Iterator[T]:
    """Do something for each argument in threads; yields the results in the arguments' order.

    No more than twice as many arguments as threads are taken ahead of what was yielded. When the
    iterator has ended, failed or been closed, nothing is going on any more.

    Args:
        action: what to do; runs in a thread.
        arguments: made one by one in the caller's thread.
        n_threads: how many actions go on at the same time, at most.

    Raises:
        Exception: that of the first action, in the arguments' order, which failed.

    Example:
        >>> list(in_order(abs, [-3, 2, -1], 2))
        [3, 2, 1]
    """
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="espnet3-storage")
    waiting: deque[Future[T]] = deque()
    try:
        for argument in arguments:
            waiting.append(pool.submit(action, argument))
            if len(waiting) >= 2 * n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def gather(action: Callable[[A], T], arguments: Sequence[A], n_threads: int) -> list[T]:
    """Do something for each argument, in threads once that is seen to take its time.

    Threads that have nothing to wait for only wait for each other.

    Args:
        action: what to do.
        arguments: for each of them.
        n_threads: how many actions go on at the same time, at most.

    Raises:
        Exception: that of the first action, in the arguments' order, which failed.

    Example:
        >>> gather(abs, [-3, 2, -1], 2)
        [3, 2, 1]
    """
    found: list[T] = []
    began = time.perf_counter()
    for argument in arguments:
        found.append(action(argument))
        if time.perf_counter() - began > AT_ONCE * (len(found) + 10):  # a hiccup is none
            break
    return [*found, *in_order(action, arguments[len(found) :], n_threads)]


def submit_in_context(pool: Executor, function: Callable[..., T], *args: Any) -> Future[T]:
    """Call a function in a thread of a pool and, as `asyncio.to_thread` does, in this context.

    Example:
        >>> with ThreadPoolExecutor(1) as pool:
        ...     submit_in_context(pool, max, 3, 4).result()
        4
    """
    return pool.submit(contextvars.copy_context().run, function, *args)
