"""A child that the user's code forked has no part in its parent's shard, wherever it comes back."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from espnet3.worker.signals import end_child

_watching: list[list[int]] = []


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """End a child that leaves the block: it would go on in its parent's files.

    Yields:
        What is empty, but in such a child; that is to call `end_child` where it sees so.

    Example:
        >>> with watched() as forked:
        ...     forked
        []
    """
    forked: list[int] = []
    _watching.append(forked)
    try:
        yield forked
    finally:
        if forked:
            end_child()
        _watching.remove(forked)


def _after_fork() -> None:
    for forked in _watching:
        forked.append(os.getpid())
    _watching.clear()


os.register_at_fork(after_in_child=_after_fork)
