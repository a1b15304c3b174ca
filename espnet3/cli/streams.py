"""The standard streams, whatever the shell has made of them: closed, full, or a reader gone."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from espnet3.errors import UsageError

NAMES = ("stdin", "stdout", "stderr")


def open_streams() -> None:
    """Open streams that are closed (`>&-`) on /dev/null, and let none fail at a foreign character.

    Otherwise the next file that is opened would get a stream's number, and what is printed.
    """
    for number in range(len(NAMES)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (for good)
        elif hasattr(stream, "reconfigure"):  # a file name that is not text must not be an error
            stream.reconfigure(errors="backslashreplace")


def require_stdout(instead: str) -> None:
    """Refuse to print data that nobody gets.

    Args:
        instead: what to do about it.

    Raises:
        UsageError: standard output is closed.
    """
    if getattr(sys.stdout, "name", "") == os.devnull:  # `>/dev/null` has another name
        raise UsageError(f"standard output is closed; {instead}")


def give_up(stream: TextIO) -> None:
    """Forget what a stream cannot take, or Python complains when it flushes it at its end."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with open(os.devnull, "wb") as nothing, contextlib.suppress(OSError, ValueError):
            os.dup2(nothing.fileno(), stream.fileno())
