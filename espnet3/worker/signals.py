"""Signals by which a scheduler ends a job, turned into one exception at a safe point."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import traceback
from _thread import interrupt_main
from threading import get_ident, main_thread
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

HANDLED = (
    signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGHUP, signal.SIGINT,
)  # fmt: skip


def to_handle() -> list[signal.Signals]:
    """The signals that end the work of this process.

    A process that nohup(1) started, or one whose parent it started, goes on ignoring SIGHUP.

    Example:
        >>> signal.SIGTERM in to_handle()
        True
    """
    spared = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in HANDLED if number != signal.SIGHUP or not spared]


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
        for number in to_handle():
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
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _become_child(self) -> None:
        """Put the handlers of before back, unless the user's code has set its own."""
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)  # also for a thread: it is the child's main one
        self.received = None  # it was not for the child
        self.__class__ = _InChild

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
        if self.armed and not _is_forking(frame):
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
            end_child()
        super().__setattr__(name, value)


_entered: set[Signals] = set()
_masks: dict[int, set[Any]] = {}  # of the threads that are forking: what they had blocked before


@functools.cache
def _watch_forks() -> None:
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )


def _before_fork() -> None:
    """Block the signals: one that reached the child while it has our handlers would be lost."""
    if _entered:
        _masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def _after_in_parent() -> None:
    me = get_ident()
    mask = _masks.get(me)
    if mask is None:
        return
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    noted = [s.received for s in _entered if s.armed and s.received is not None]
    mine = noted if me == main_thread().ident else []
    again = map(interrupt_main, [signal.Signals[name] for name in mine])
    del _masks[me]
    [*_] = again  # unlike behind a call, the handler runs where the fork was asked for


def _after_in_child() -> None:
    for signals in _entered:
        with contextlib.suppress(TypeError, ValueError):  # a handler that Python did not set
            signals._become_child()
    _entered.clear()
    mask = _masks.get(get_ident())
    _masks.clear()
    if mask is None:
        return
    # Whoever has sent the child a signal means it. What a handler of Python raised here would be
    # swallowed, so that such signals (SIGINT is one) are taken, and come again as in the parent.
    late = [number for number in signal.sigpending() - mask if callable(signal.getsignal(number))]
    for number in late:
        signal.sigwait([number])
    again = map(interrupt_main, late)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    [*_] = again


def _is_forking(frame: FrameType | None) -> bool:
    """Whether this thread is in what is called around a fork, where exceptions are swallowed."""
    return get_ident() in _masks or (frame is not None and frame.f_code is _before_fork.__code__)


def end_child() -> NoReturn:
    """End a forked process as Python ends one that leaves its script, but for its open files."""
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
