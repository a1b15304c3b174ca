"""Who a process is, whose it is, and whether it still lives; on one host only.

What stands on a command line tells nothing by itself: any user of the host can start a process with
any words. So whoever looks for a process asks whose it is, too.
"""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator
from typing import TYPE_CHECKING

from espnet3.specs.models import ProcessIdentity

if TYPE_CHECKING:
    import psutil


def this_process() -> ProcessIdentity:
    """The identity of this process."""
    return ProcessIdentity(
        host=os.uname().nodename,
        pid=os.getpid(),
        started=_started(os.getpid()) or 0.0,
        user=this_user(),
    )


_TICK = 0.01  # seconds: what starts are told by
# Seconds by which a host's clock may be set while a process lives. Within so few no pid is used by
# two processes of one user that also began in the same hundredth of a second.
_MOST_SET = 60.0
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
    me = this_process()
    if (process.host, process.pid) == (me.host, me.pid) and _is_one_start(process, me.started):
        return work in _busy
    return is_alive(process)


def is_alive(process: ProcessIdentity) -> bool | None:
    """Whether a process lives; None where it belongs to another host."""
    if process.host != os.uname().nodename:
        return None
    started = _started(process.pid, user_ids(process.user))
    return started is not None and _is_one_start(process, started)


def _is_one_start(process: ProcessIdentity, started: float) -> bool:
    """Whether a process that is there by now began when the one did that was noted.

    Linux tells it from the boot on, whose time of day, in whole seconds, moves with the clock.
    """
    moved = abs(started - process.started)
    return moved <= _MOST_SET and abs(moved - round(moved)) < _TICK / 2


def this_user() -> str:
    """The name of this process's user, as schedulers know it; variables such as LOGNAME may lie.

    Example:
        >>> this_user()  # doctest: +SKIP
        'ana'
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # in a container, say
        pass
    import getpass  # workers, which import this, never come here

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def user_ids(user: str) -> frozenset[int]:
    """Ids of a user, where this host knows the name, and of this process's own.

    Example:
        >>> os.geteuid() in user_ids("nobody")
        True
    """
    ids = {os.geteuid()}
    with contextlib.suppress(KeyError, ValueError):
        ids.add(pwd.getpwnam(user).pw_uid)
    return frozenset(ids)


def is_of(process: psutil.Process, users: frozenset[int]) -> bool:
    """Whether a process belongs to one of some users, wholly.

    A program that changes its user (setuid) has the words of whoever has started it.
    """
    import psutil

    try:
        found = process.uids()
    except psutil.Error:
        return False
    return found.real == found.effective and found.real in users


def _started(pid: int, users: frozenset[int] | None = None) -> float | None:
    """When a process of these users started, so that a pid that was used again is not taken for it.

    None where there is no such process.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or not (users is None or is_of(process, users)):
            return None
        return float(process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.AccessDenied:
        return 0.0
