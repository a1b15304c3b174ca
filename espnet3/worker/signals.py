"""Signals by which a scheduler ends a job, turned into one exception at a safe point."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGINT)


class Interrupted(BaseException):
    """A signal asked this process to stop. No Exception, so that user code does not catch it."""


class Signals:
    """Watches for signals while it is entered.

    The handler only takes note, except while `armed` is True: then it raises Interrupted, so that a
    long item is abandoned. Files are written with `armed` False.

    Attributes:
        received: name of the first signal, or None.
        armed: whether a signal may raise now.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self.armed = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        _watch_forks()
        _entered.add(self)
        for number in HANDLED:
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.armed = False
        _entered.discard(self)
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
        if self.armed:
            self.armed = False
            raise Interrupted(self.received)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.received is not None:
            raise Interrupted(self.received)


class _InChild(Signals):
    """What `Signals` become in a child that the user's code forked.

    Such a child comes back from `forward` too, by `sys.exit` say. It would go on with the shard,
    in its parent's files.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if name == "armed":
            _end_child()
        super().__setattr__(name, value)


_entered: set[Signals] = set()


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(after_in_child=_become_child)


def _become_child() -> None:
    for signals in _entered:
        with contextlib.suppress(ValueError):  # forked by a thread
            signals._put_back()
        signals.__class__ = _InChild


def _end_child() -> NoReturn:
    """End this process as Python ends one that leaves its script."""
    error = sys.exception()
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    code = 0 if error is None else 1
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        code = error.code or 0
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()
    os._exit(code & 0xFF)
