"""A store that counts its operations and stops the process dead at a given one. For tests."""

from __future__ import annotations

import functools
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

from espnet3.storage.local import LocalStore

OPERATIONS = (
    "read",
    "open",
    "_publish",
    "_write_new",
    "create_many",
    "append",
    "names",
    "make_durable",
    "prepare",
    "exists",
    "_sync_folder",
)


def die() -> None:
    """End this process as a power cut would: nothing is flushed, nothing is caught."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: int, when: str) -> Callable[[], int]:
    """Kill this process at its `step`-th store operation, counted from 1.

    Args:
        step: the operation; 0 never kills.
        when: `before` or `after` the operation.

    Returns:
        A function that tells how many operations there were so far.
    """
    numbers, count = itertools.count(1), 0

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count = number = next(numbers)  # in one step, for threads share it
            mine = number == step
            if mine and when == "before":
                die()
            try:
                return original(*args, **kwargs)
            finally:
                if mine:
                    die()

        return counted

    for name in OPERATIONS:
        setattr(LocalStore, name, wrap(getattr(LocalStore, name)))
    return lambda: count
