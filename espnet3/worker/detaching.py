"""Detaching a process from the one that starts it, which learns whether it has begun."""

from __future__ import annotations

import os
import sys

from espnet3.storage.retry import RetryPolicy, is_shortage
from espnet3.worker import exit_codes


class Report:
    """How a detached process tells the one that started it what became of its start.

    Args:
        pipe: the write end of the pipe between them.
        module: what begins a problem's line.
    """

    def __init__(self, pipe: int, module: str) -> None:
        self._pipe, self._module = pipe, module

    def begun(self) -> None:
        """Say that it has begun; nobody listens from then on."""
        os.write(self._pipe, b"\n")
        os.close(self._pipe)

    def problem(self, words: str) -> int:
        """Say why it ends; its exit code."""
        os.write(self._pipe, f"{self._module}: {words}".encode())
        return exit_codes.USAGE


def detach(module: str, what: str) -> Report | int:
    """Fork into a session of its own, before anything is opened: connections do not survive it.

    The first process waits until the detached one has reported, and prints its pid, or what is
    wrong where that failed.

    Args:
        module: the program.
        what: what it is, for a person.

    Returns:
        In the detached process, how it reports; in the first one, the exit code that it ends with.
    """
    try:
        return _detach(module, what)
    except OSError as error:
        print(f"no process can be made for the {what}: {error.strerror}", file=sys.stderr)
        return exit_codes.USAGE


def _detach(module: str, what: str) -> Report | int:
    reading, writing = os.pipe()
    detached = RetryPolicy().call(os.fork, is_shortage)
    if detached == 0:
        os.close(reading)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.close(null)
        return Report(writing, module)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        words = pipe.read().decode()
    if words != "\n":
        print(words or f"the {what} died at its start", file=sys.stderr)
        return exit_codes.USAGE
    print(detached)
    return exit_codes.DONE
