"""Who a process is, and whether it still lives; on one host only."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator

from espnet3.specs.models import ProcessIdentity


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    return ProcessIdentity(
        host=os.uname().nodename,
        pid=os.getpid(),
        started=_started(os.getpid()) or 0.0,
        user=_user(),
    )


_busy: list[str] = []  # with a word for each that is busy; two may be with the same


@contextlib.contextmanager
def busy_with(work: str) -> Iterator[None]:
    """Note that this process is busy with something, for `is_busy` in this process."""
    _busy.append(work)
    try:
        yield
    finally:
        _busy.remove(work)


def is_busy(process: ProcessIdentity, work: str) -> bool | None:
    """Whether a process may be busy with something; None where it belongs to another host.

    A notebook lives on after a call that was interrupted, so this process is asked itself.
    """
    if process == this_process():
        return work in _busy
    return is_alive(process)


def is_alive(process: ProcessIdentity) -> bool | None:
    """Whether a process lives; None where it belongs to another host."""
    if process.host != os.uname().nodename:
        return None
    return _started(process.pid) == process.started


def _started(pid: int) -> float | None:
    """When a process started, so that a pid that was used again is not taken for it."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
