"""The progress bar of a call: a `with` block, so that it ends with the call however that ends.

It is not a generator that one loops over: an exception's traceback would keep that open, and the
interpreter's end would wait for ever for the thread that draws (Python 3.13).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

_DRAWN_EVERY = 0.05  # seconds; to count is nothing beside a short item, to tell the bar is


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """Draw a bar on stderr while a `with` block runs.

    Args:
        title: what stands before the bar.
        total: how many items there are.
        shown: whether to draw; where not, nothing is done.

    Yields:
        A function to call with how many items were finished since the last time.

    Example:
        >>> with progress_bar("Decode", 2, shown=False) as advance:
        ...     for _ in range(2):
        ...         advance(1)
    """
    if not shown:
        yield lambda finished: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # What `forward` prints is drawn above the bar; with `python decode.py > log` it goes there.
    printed_here = sys.stdout is not None and sys.stdout.isatty()
    with Progress(console=Console(stderr=True), redirect_stdout=printed_here) as progress:
        task = progress.add_task(title, total=total)
        done, told = 0, time.monotonic()

        def advance(finished: int) -> None:
            nonlocal done, told
            done += finished
            if time.monotonic() - told > _DRAWN_EVERY:
                progress.update(task, completed=done)
                told = time.monotonic()

        try:
            yield advance
        finally:
            progress.update(task, completed=done)
