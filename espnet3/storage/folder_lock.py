"""A lock, so that one process at a time writes to a folder; it ends with that process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator

from espnet3.errors import OutputError
from espnet3.storage.permissions import make_folders, opener
from espnet3.text import one_line

OF_ALL = ".lock"  # in the folder of all shards: one call or collection at a time
# Not every file system has locks; there, nobody is kept out. Nor by what may only be read on NFS.
_NO_LOCKS = frozenset({
    errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF,
})  # fmt: skip


@contextlib.contextmanager
def held(
    path: str | os.PathLike[str],
    *,
    patience: float = 0.0,
    meanwhile: Callable[[str], None] = lambda whose: None,
) -> Iterator[None]:
    """Hold a lock, which ends with this process at the latest; its folder is made.

    Args:
        path: the lock's file, which stays.
        patience: how many seconds to wait for another process that holds it.
        meanwhile: called now and then while it waits, with whose the lock is.

    Raises:
        OutputError: another process holds it, or the folder cannot be written to.
    """
    path = os.fspath(path)
    descriptor = _opened(path)
    before, owner = os.fstat(descriptor), os.getpid()
    try:
        until = time.monotonic() + patience
        while not _locked(descriptor):
            whose = one_line(os.pread(descriptor, 200, 0).decode(errors="replace"))
            whose = whose or "another process"
            if time.monotonic() > until:
                raise OutputError(
                    os.path.dirname(path),
                    f"is being written by {whose}; wait until it has ended, or choose another "
                    "output_dir",
                )
            meanwhile(whose)
            time.sleep(0.05)
        with contextlib.suppress(OSError):  # the disk is full; it is said to others alone
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {owner} on {os.uname().nodename}".encode(), 0)
        yield
    finally:
        # Hooks may have closed what is not theirs, and the number may be another file's by now.
        if _is_still(descriptor, before):
            if os.getpid() == owner:  # also for what it has forked, which has the file open
                _unlock(descriptor)
            os.close(descriptor)


def _opened(path: str) -> int:
    """The lock's file, which is no link: that would lead to what others want to have written to.

    Raises:
        OutputError: it cannot be had.
    """
    folder = os.path.dirname(path)
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        make_folders(folder)
        try:
            descriptor = opener(path, os.O_RDWR | os.O_CREAT | flags)
        except PermissionError:  # a colleague's, which can be locked all the same
            descriptor = os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        why = "its lock is a link" if error.errno == errno.ELOOP else error.strerror
        raise OutputError(folder, f"cannot be written to ({why})") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OutputError(folder, "cannot be written to (its lock is no file)")


def _is_still(descriptor: int, before: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), before)
    except OSError:
        return False


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _unlock(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # where there are none
        fcntl.flock(descriptor, fcntl.LOCK_UN)
