"""How files are made: as the umask says, but for their owner, and never for everyone to write.

A umask of 777 would leave records that nobody can read.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from espnet3.errors import UsageError

FILE, FOLDER = 0o664, 0o775
_OWNER_FILE = stat.S_IRUSR | stat.S_IWUSR


def umask() -> int | None:
    """This process's umask; None where the system does not tell.

    To ask the kernel any other way would change it for a moment, in all threads.
    """
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return None


def require_usable_umask() -> None:
    """Refuse a umask by which one could not use what one makes.

    Raises:
        UsageError: it takes rights from the owner.

    Example:
        >>> require_usable_umask()
    """
    mask = umask()
    if mask is not None and mask & 0o700:
        raise UsageError(
            f"with the umask {mask:03o} you could not use the files that you make; run `umask "
            f"{mask & 0o077:03o}` first"
        )


def opener(path: str, flags: int) -> int:
    """For `open(..., opener=opener)`: what it creates is for its owner and not for everyone."""
    descriptor = os.open(path, flags, FILE)
    if flags & os.O_CREAT:
        mode = os.fstat(descriptor).st_mode
        if mode & _OWNER_FILE != _OWNER_FILE:
            with contextlib.suppress(OSError):  # it was there, and is somebody else's
                os.fchmod(descriptor, stat.S_IMODE(mode) | _OWNER_FILE)
    return descriptor


def write_whole(file: BinaryIO, data: bytes) -> None:
    """Write data to a file without a buffer, each call of which may take a part of it."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def make_folder(path: str) -> None:
    """As `os.mkdir`, for a folder that is not for everyone to write, and for its owner to use.

    Raises:
        OSError: it cannot be made, or is there.
    """
    os.mkdir(path, FOLDER)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) | stat.S_IRWXU)


def regular(path: str, flags: int) -> int:
    """For `open(..., opener=regular)`: opens files only; a pipe in one's place would block.

    Raises:
        OSError: it cannot be opened, or is a folder, a pipe or a device.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # no effect on a file
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _no_file(path, mode)
    return descriptor


def require_regular(path: str) -> None:
    """Refuse what has a file's name and is none; a link to a file is one.

    Raises:
        FileNotFoundError: nothing has that name.
        OSError: it is a folder, a pipe, a device or a link to nothing.

    Example:
        >>> require_regular("/etc/passwd")
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        if os.path.islink(path):
            raise OSError(errno.EISDIR, "Is a link to nothing", path) from None
        raise
    if not stat.S_ISREG(mode):
        raise _no_file(path, mode)


def _no_file(path: str, mode: int) -> OSError:
    problem = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "Is not a regular file"
    return OSError(errno.EISDIR, problem, path)


def make_folders(path: str) -> None:
    """As `os.makedirs(path, exist_ok=True)`, with none of the new folders for everyone to write.

    The new folders are durable: what is synced in one is lost with the host if its own name is.

    Raises:
        OSError: it cannot be made, or is a file.

    Example:
        >>> make_folders("/tmp")
    """
    parent = os.path.dirname(path)
    if parent and not os.path.isdir(parent):
        make_folders(parent)
    with contextlib.suppress(FileExistsError):
        make_folder(path)
        _leave_group_of_all(path, parent or os.curdir)
        _sync(parent or os.curdir)
        return
    if not os.path.isdir(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


@contextlib.contextmanager
def removed_on_error(folders: Iterable[str]) -> Iterator[None]:
    """Remove what the block has made of some folders, and of those above, where it fails.

    Only what is empty: somebody else may have put something there.

    Args:
        folders: absolute paths.

    Example:
        >>> with removed_on_error(["/tmp/run/shards"]):
        ...     make_folders("/tmp/run/shards")  # doctest: +SKIP
    """
    missing: set[str] = set()
    for folder in folders:
        while folder not in missing and not os.path.lexists(folder):
            missing.add(folder)
            folder = os.path.dirname(folder)
    try:
        yield
    except BaseException:
        for folder in sorted(missing, key=len, reverse=True):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        raise


def _leave_group_of_all(path: str, parent: str) -> None:
    """Give a new folder one's own group, where it got that of a setgid folder for everyone.

    What the umask lets the group write was meant for one's own, not for all who share a scratch.
    """
    above = os.stat(parent).st_mode
    if above & stat.S_ISGID and above & stat.S_IWOTH:
        with contextlib.suppress(PermissionError):  # mounts that settle owners themselves
            os.chown(path, -1, os.getegid())
            os.chmod(path, stat.S_IMODE(os.stat(path).st_mode) & ~stat.S_ISGID)


def _sync(folder: str) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder may be for writing only
    try:
        sync_folder(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def descriptor_of(path: str, flags: int) -> Iterator[int]:
    """A descriptor of a file or folder, which is closed at the end.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def sync_folder(descriptor: int) -> None:
    """Make the names in an open folder durable.

    Raises:
        OSError: they may not be.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder, and need not.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise


def unfinished_name(path: str) -> str:
    """A name beside a path for what may take its place; nobody else has it or believes it.

    Example:
        >>> unfinished_name("/shared/run.json")  # doctest: +SKIP
        '/shared/.run.json.1f0c9a2b7d3e.tmp'
    """
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")


@contextlib.contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A new file, which takes the place of what has the path once the block ends without an error.

    Whoever needs it to be durable syncs it in the block.

    Raises:
        OSError: it cannot be made, or cannot take that place.

    Example:
        >>> with replacing("/tmp/hyp.scp") as file:  # doctest: +SKIP
        ...     file.write(b"utt0 good morning")
    """
    unfinished = unfinished_name(path)
    try:
        with open(unfinished, "xb", opener=opener) as file:
            yield file
        os.replace(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is what matters
            os.unlink(unfinished)
        raise


def is_same_file(path: str, other: str) -> bool:
    """Whether two names are those of one file."""
    try:
        return os.path.samestat(os.lstat(path), os.lstat(other))
    except FileNotFoundError:
        return False
