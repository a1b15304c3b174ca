"""Making everything on a file system durable at once, where that is right and quick. Linux only.

A thousand new files are then written to the disk together, in a few large requests, where each
fsync makes one or more of its own.
"""

from __future__ import annotations

import errno
import functools
import os
import re

# Those whose syncfs waits until the disk has everything; a network file system's may do less, and
# one in user space is not even asked.
_KNOWN = frozenset({"ext2", "ext3", "ext4", "xfs", "tmpfs"})
_LITTLE = 64 << 20  # bytes, of others too, that are waited for


def can_sync_whole(folder: str) -> bool:
    """Whether `sync_whole` makes a folder's files durable, and has little of others to wait for.

    Example:
        >>> can_sync_whole("/proc")
        False
    """
    try:
        here = _tells_errors() and _can_be_called() and _type_of(folder) in _KNOWN
        return here and _not_written() < _LITTLE
    except (ImportError, OSError, LookupError, ValueError, AttributeError):
        return False  # no Linux, or not one that is known


def sync_whole(descriptor: int) -> None:
    """Wait until all that was written on the file system of an open folder is durable.

    Errors of what was written since the folder was opened are told: see syncfs(2).

    Raises:
        OSError: something could not be written.
    """
    number = _syncfs(descriptor)
    if number:
        raise OSError(number, os.strerror(number))


def _syncfs(descriptor: int) -> int:
    """syncfs(2); the number of its error, or 0."""
    import ctypes

    failed = ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0
    return ctypes.get_errno() if failed else 0


@functools.cache
def _tells_errors() -> bool:
    """Whether syncfs says what could not be written: all of it since Linux 5.17, some since 5.8."""
    numbers = re.findall(r"\d+", os.uname().release)
    return os.uname().sysname == "Linux" and (int(numbers[0]), int(numbers[1])) >= (5, 17)


@functools.cache
def _can_be_called() -> bool:
    """Whether a sandbox lets the call through, which would fail on what is not a descriptor."""
    return _syncfs(-1) == errno.EBADF


def _type_of(folder: str) -> str:
    """The type of a folder's file system; see proc_pid_mountinfo(5)."""
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            mount, _, source = line.partition(" - ")
            if mount.split()[2] == number:
                return source.split()[0]
    return ""


def _not_written() -> int:
    """Bytes that wait to be written to any disk; see proc_meminfo(5)."""
    with open("/proc/meminfo", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return sum(int(lines[name].split()[0]) << 10 for name in ("Dirty", "Writeback"))
