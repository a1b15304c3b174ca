"""The blocking form of a coroutine; the coroutine is always the implementation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also where this thread has a running event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        running = False  # run below, or an error of the coroutine would seem to come from this one
    else:
        running = True
    if not running:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def iterate_blocking(iterator: AsyncIterator[T]) -> Iterator[T]:
    """Go through an asynchronous iterator, also where this thread has a running event loop."""

    async def following() -> T:
        return await anext(iterator, _END)

    with contextlib.ExitStack() as stack:
        # A thread of its own: its event loop has to live from one step to the next.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        runner = asyncio.Runner()
        stack.callback(_close, runner, thread)
        while (found := thread.submit(runner.run, following()).result()) is not _END:
            yield found


def _close(runner: asyncio.Runner, thread: ThreadPoolExecutor) -> None:
    """Close an iterator's event loop where it lived, also one that the program's end finds open."""
    try:
        closing = thread.submit(runner.close)
    except RuntimeError:  # the interpreter is ending, and has ended all threads
        runner.get_loop().close()
        return
    closing.result()
