"""When a store tries again, and how long it waits for what others wrote. The only place for both.

An operation is repeated where its error says that nothing is wrong but the moment, and where doing
it twice is the same as doing it once. Everything else is raised at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Callable
from typing import TypeVar

from espnet3._structs import Struct
from espnet3.text import visible

log = logging.getLogger("espnet3.store")
T = TypeVar("T")

# How network file systems say "again": the file's handle is of yesterday, a server or a lock was
# busy, a signal or a soft time-out came first. EIO is not among them: what it lost stays lost.
TRANSIENT = frozenset({errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ESTALE, errno.ETIMEDOUT})

# What a host is short of: processes, threads, memory, descriptors.
SHORTAGES = frozenset({errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE})


def _patience(said: str | None) -> float:
    """Seconds that a file of another host may be late, as the environment says."""
    usual = 60.0  # NFS clients cache attributes for at most that long by default
    with contextlib.suppress(ValueError):
        seconds = float(said or usual)
        if 0 <= seconds < float("inf"):
            return seconds
    log.warning("ESPNET3_PATIENCE: %r is not a number of seconds; %g is used", said, usual)
    return usual


PATIENCE = _patience(os.environ.get("ESPNET3_PATIENCE"))


class RetryPolicy(Struct):
    """How often to try, and how long to wait between two tries.

    The pause doubles from try to try; it is cut by up to a half at random, so that the tasks of an
    array which met the same trouble at the same time do not come back at the same time.

    Attributes:
        tries: tries in all.
        first: seconds of the first pause.
        longest: seconds of the longest pause.
        sleep: waits for so many seconds; what is true ends `patiently` at once.
        clock: seconds that pass, for `patiently`.

    Example:
        >>> waited: list[float] = []
        >>> policy = RetryPolicy(tries=3, sleep=waited.append)
        >>> def busy() -> None:
        ...     raise OSError(errno.ESTALE, "Stale file handle")
        >>> policy.call(busy)
        Traceback (most recent call last):
        OSError: [Errno 116] Stale file handle
        >>> len(waited)
        2
    """

    tries: int = 9  # with the pauses below about 20 s in all
    first: float = 0.1
    longest: float = 10.0
    sleep: Callable[[float], object] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def pause(self, failed: int, error: Exception) -> None:
        """Wait after the `failed`-th failure, or raise its error where that was the last try."""
        if failed >= self.tries:
            raise error
        import random  # here, since workers hardly ever come here

        seconds = min(self.first * 2 ** (failed - 1), self.longest)
        log.info("try %d of %d: %s", failed, self.tries, visible(str(error)))
        self.sleep(seconds * random.uniform(0.5, 1.0))  # noqa: S311 (no secret)

    def call(
        self, action: Callable[[], T], transient: Callable[[Exception], bool] | None = None
    ) -> T:
        """Do something that may be done twice, again while it fails by a transient error.

        Args:
            action: the operation.
            transient: whether an error is transient; `is_transient` where unset.

        Raises:
            Exception: that of `action`, where it is not transient or was the last try's.
        """
        failed = 0
        while True:
            try:
                return action()
            except Exception as error:
                if not (transient or is_transient)(error):
                    raise
                failed += 1
                self.pause(failed, error)

    def patiently(
        self,
        action: Callable[[], T],
        late: type[Exception] | tuple[type[Exception], ...],
        patience: float,
    ) -> T:
        """Do something that may fail because a network file system shows files late.

        Args:
            action: looks.
            late: what it raises where it may be too early.
            patience: seconds before such an error is believed.
        """
        deadline, pause = self.clock() + patience, self.first / 2
        while True:
            try:
                return action()
            except late:
                if self.clock() + pause > deadline or self.sleep(pause):
                    raise
            pause = min(2 * pause, self.longest / 2)


def is_shortage(error: BaseException) -> bool:
    """Whether this host is short of something that others may give back.

    Example:
        >>> is_shortage(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
        True
    """
    if isinstance(error, RuntimeError):
        return str(error) == "can't start new thread"
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in SHORTAGES
    )


def is_transient(error: Exception) -> bool:
    """Whether an error of the operating system passes by itself."""
    return isinstance(error, OSError) and error.errno in TRANSIENT
