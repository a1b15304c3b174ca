"""The store of a run directory on a POSIX file system, shared or not."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import BinaryIO, TypeVar

from espnet3.errors import (
    FileMissing,
    FileTaken,
    FileTooLarge,
    RunDirectoryError,
    StoreError,
)
from espnet3.storage import permissions
from espnet3.storage.base import IN_FLIGHT, MAX_DOCUMENT, AppendFile, Store
from espnet3.storage.local_append import LocalAppendFile
from espnet3.storage.local_reader import LocalReader
from espnet3.storage.retry import is_transient
from espnet3.text import counted

T = TypeVar("T")
# What file systems say that have no hard links (exFAT), not between these two files (the projects
# of XFS, AFS), or not so many.
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK})
_ADVICE = {
    errno.EFBIG: "is there a `ulimit -f`?",
    errno.EISDIR: "only a file may have that name, so move it away",
    errno.ENOMEM: "is there a `ulimit -v`?",
}
_RECORD = ".json"  # at the end of a record's name
# Files are there already, or it is a link, a mount, somebody else's, or where that cannot be done.
_NOT_IN_ITS_PLACE = _NO_LINKS | {
    errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EBUSY, errno.EACCES,
    errno.EINVAL,
}  # fmt: skip
_ELSEWHERE = "choose another run_dir"
_BLOCK = 1 << 17  # bytes that an open file holds
_GROUP = 16  # files


class LocalStore(Store):
    """A run directory on a POSIX file system, shared or not."""

    can_append = True
    knows_sizes = True

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        def read() -> bytes:
            with open(self.locate(path), "rb", opener=permissions.regular) as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:  # a sparse one may claim anything
                    raise FileTooLarge(self.locate(path), size, limit)
                return file.read()

        return self._do(path, read)

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(
            LocalReader(self.locate(path), lambda action: self._do(path, action)), _BLOCK
        )

    def read_beginning(self, path: str, size: int) -> bytes:
        def read() -> bytes:
            with open(self.locate(path), "rb", buffering=0, opener=permissions.regular) as file:
                data = file.read(size)
                while len(data) < size and (more := file.read(size - len(data))):
                    data += more
                return data

        return self._do(path, read)

    def modified(self, path: str) -> float | None:
        return self._do(path, lambda: os.stat(self.locate(path)).st_mtime)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._publish(path, data, durable)
        if durable:
            self._sync_folder(os.path.dirname(path))

    def create_many(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        # All are written to a hidden folder that then takes the place of the empty one: that spares
        # each of them a temporary name, a link and an unlink.
        hidden = permissions.unfinished_name(folder)
        self._do(hidden, lambda: _make_folder(self.locate(hidden)))
        is_ours = True
        try:
            with self._opened_folder(hidden) as descriptor:
                self._write_all(hidden, files, descriptor)
                is_ours = False  # where a rename fails, it may have been done all the same
                where = self.locate(hidden), self.locate(folder), descriptor
                replaced = self._do(folder, lambda: _take_place(*where))
                is_ours = not replaced
            if not replaced:
                names = sorted(self._do(hidden, lambda: os.listdir(self.locate(hidden))))
                super().create_many(folder, ((n, self.read(f"{hidden}/{n}")) for n in names))
                self._sync_folder(folder)  # in which others may have made the same files just now
            self._sync_folder(os.path.dirname(folder))
        finally:
            if is_ours:
                self._remove_folder(hidden)

    def _write_all(self, hidden: str, files: Iterable[tuple[str, bytes]], descriptor: int) -> None:
        """Write new files to an open folder that nobody knows, durably."""
        from espnet3.storage.concurrency import in_order
        from espnet3.storage.syncfs import can_sync_whole, sync_whole

        whole = can_sync_whole(self.root)

        def write(group: list[tuple[str, bytes]]) -> None:
            for name, data in group:
                path = f"{hidden}/{name}"
                self._do(path, partial(self._write_new, self.locate(path), data, not whole))

        for _ in in_order(write, _groups(files), 1 if whole else IN_FLIGHT):
            pass
        with self._mapped(hidden):
            (sync_whole if whole else permissions.sync_folder)(descriptor)

    def _publish(self, path: str, data: bytes, durable: bool) -> None:
        # Linking a finished temporary file is atomic and exclusive on NFSv3 and later too; a rename
        # would replace an existing file without a word.
        target = self.locate(path)
        temporary = self._do(path, lambda: self._write_temporary(target, data, durable))
        try:
            self._do(path, lambda: self._link(temporary, target))
        finally:
            self._remove(temporary)

    def replace(self, path: str, data: bytes) -> None:
        target = self.locate(path)
        once_more = self.retry._replace(tries=2)  # a hint: losing one is no matter
        write = partial(self._write_temporary, target, data, False)
        with self._mapped(path):
            temporary = once_more.call(write)

        def rename() -> None:
            try:
                os.rename(temporary, target)
            except FileNotFoundError:  # an earlier try did it, and its answer was lost
                if not os.path.exists(target):
                    raise

        try:
            with self._mapped(path):
                once_more.call(rename)
        except BaseException:
            self._remove(temporary)
            raise

    def _write_temporary(self, target: str, data: bytes, durable: bool) -> str:
        temporary = permissions.unfinished_name(target)
        self._write_new(temporary, data, durable)
        return temporary

    def _write_new(self, file_name: str, data: bytes, durable: bool) -> None:
        """Write a file of which nobody else knows; there is none after an error."""
        try:
            with open(file_name, "xb", 0, opener=permissions.opener) as file:
                permissions.write_whole(file, data)
                if durable:
                    os.fsync(file.fileno())
        except FileExistsError:  # somebody else's: not ours to remove
            raise
        except BaseException:
            self._remove(file_name)
            raise

    def _link(self, temporary: str, target: str) -> None:
        try:
            os.link(temporary, target)
        except OSError as error:
            # The link may have succeeded, and its answer been lost: then both names are one file.
            # That it has two names says nothing, since others make links too (a backup).
            if permissions.is_same_file(temporary, target):
                return
            if isinstance(error, FileExistsError):
                with contextlib.suppress(FileNotFoundError):
                    permissions.require_regular(target)  # or it would be waited for, or believed
                raise FileTaken(target) from None
            if error.errno in _NO_LINKS:
                problem = f"no hard link can be made here ({error.strerror})"
                raise StoreError(target, f"{problem}; {_ELSEWHERE}") from None
            raise

    def _remove(self, temporary: str) -> None:
        # What became of the file is decided by now, and a hidden file that stays does no harm.
        with contextlib.suppress(OSError):
            self.retry.call(lambda: os.unlink(temporary))

    def _remove_folder(self, hidden: str) -> None:
        with contextlib.suppress(OSError):  # as far as that can be done at once
            for name in os.listdir(self.locate(hidden)):
                os.unlink(self.locate(f"{hidden}/{name}"))
            os.rmdir(self.locate(hidden))

    def append(self, path: str) -> AppendFile:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        tries = 0

        def create() -> int:
            nonlocal tries
            tries += 1
            try:
                return permissions.opener(self.locate(path), flags)
            except FileExistsError:
                # An earlier try may have succeeded and its answer been lost: nobody else uses this
                # name, and nothing was written yet.
                if tries > 1 and os.stat(self.locate(path)).st_size == 0:
                    return os.open(self.locate(path), flags & ~(os.O_CREAT | os.O_EXCL))
                raise FileTaken(self.locate(path)) from None

        descriptor = self._do(path, create)
        try:
            self._sync_folder(os.path.dirname(path))
            mapped = partial(self._mapped, path)
            return LocalAppendFile(self.locate(path), descriptor, self.retry, mapped)
        except BaseException:
            os.close(descriptor)
            raise

    def make_durable(self, path: str) -> None:
        with (
            self._do(
                path, lambda: open(self.locate(path), "rb", opener=permissions.regular)
            ) as file,
            self._mapped(path),
        ):
            os.fsync(file.fileno())
            # Its writer's own sync may have failed, after which the kernel takes what it could not
            # write for written. Forgetting that makes readers see what the disk holds.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def names(self, folder: str) -> list[str]:
        def look() -> list[str]:
            try:
                # Reading the folder itself also refreshes what an NFS client has cached of it.
                with os.scandir(self.locate(folder)) as entries:
                    visible = [entry for entry in entries if entry.name[0] != "."]
            except FileNotFoundError:
                return []
            return [entry.name for entry in visible if self._is_file(folder, entry)]

        return self._do(folder, look)

    def _is_file(self, folder: str, entry: os.DirEntry[str]) -> bool:
        """Whether an entry of a folder is a file.

        Raises:
            StoreError: it has the name of a record and is none: its name could never be taken.
        """
        try:
            if entry.is_file() or not entry.name.endswith(_RECORD):
                return entry.is_file()
            with contextlib.suppress(FileNotFoundError):  # it was removed just now
                permissions.require_regular(entry.path)
        except OSError as error:
            if is_transient(error):
                raise
            raise self._map(f"{folder}/{entry.name}", error) from None
        return False

    def refresh(self, folder: str) -> None:
        # A client that changes a folder itself looks at it anew. It may lack the right to.
        name = permissions.unfinished_name(os.path.join(self.locate(folder), "refresh"))
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, permissions.FILE))
            os.unlink(name)

    def prepare(self, folders: Iterable[str]) -> None:
        paths = [os.path.normpath(self.locate(folder)) for folder in folders]
        with permissions.removed_on_error(paths):
            try:
                for path in paths:
                    self.retry.call(lambda path=path: permissions.make_folders(path))  # type: ignore[misc]
                self._try_out()
            except (FileExistsError, NotADirectoryError):
                raise RunDirectoryError(
                    self.root, f"is a file, or below a file; {_ELSEWHERE}"
                ) from None
            except OSError as error:
                raise RunDirectoryError(
                    self.root, f"cannot be written ({error.strerror}); {_ELSEWHERE}"
                ) from None
            except StoreError as error:
                problem = str(error).removeprefix(f"{error.file}: ")
                raise RunDirectoryError(self.root, problem) from None

    def _try_out(self) -> None:
        """Make a first file as all others are made, and see what the storage makes of it.

        Raises:
            RunDirectoryError: no run can be here.
            StoreError: it cannot be made.
        """
        name = f".probe-{os.urandom(6).hex()}"
        self._publish(name, b"", durable=False)
        try:
            mode = self.retry.call(lambda: os.lstat(self.locate(name)).st_mode)
        finally:
            self._remove(self.locate(name))
        if mode & stat.S_IWOTH:
            raise RunDirectoryError(
                self.root,
                "reports every new file as world-writable (a mount option, or exFAT), so "
                f"nothing in it would be believed; {_ELSEWHERE}",
            )

    def exists(self, path: str) -> bool:
        def look() -> bool:
            try:
                permissions.require_regular(self.locate(path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

        return self._do(path, look)

    def _sync_folder(self, folder: str) -> None:
        with self._opened_folder(folder) as descriptor, self._mapped(folder):
            permissions.sync_folder(descriptor)

    @contextlib.contextmanager
    def _opened_folder(self, folder: str) -> Iterator[int]:
        flags = os.O_RDONLY | os.O_DIRECTORY
        descriptor = self._do(folder, lambda: os.open(self.locate(folder), flags))
        try:
            yield descriptor
        finally:
            with self._mapped(folder):
                os.close(descriptor)

    def _do(self, path: str, action: Callable[[], T]) -> T:
        """Do what may be done twice, again while the error is transient."""
        with self._mapped(path):
            return self.retry.call(action)

    @contextlib.contextmanager
    def _mapped(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._map(path, error) from None

    def _map(self, path: str, error: OSError) -> StoreError:
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            return FileMissing(self.locate(path))
        more = f" (tried {counted(self.retry.tries, 'time')})" if is_transient(error) else ""
        if error.errno in _ADVICE:
            more = f"; {_ADVICE[error.errno]}"
        return StoreError(self.locate(path), f"{error.strerror or error}{more}")


def _groups(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """The files in groups, since handing a small one to a thread costs as much as writing it."""
    group: list[tuple[str, bytes]] = []
    size = 0
    for file in files:
        group.append(file)
        size += len(file[1])
        if len(group) == _GROUP or size >= _BLOCK:
            yield group
            group, size = [], 0
    if group:
        yield group


def _make_folder(path: str) -> None:
    with contextlib.suppress(FileExistsError):  # an earlier try made it, and its answer was lost
        permissions.make_folder(path)


def _take_place(hidden: str, target: str, descriptor: int) -> bool:
    """Rename an open folder to the name of an empty one; False where that cannot be."""
    try:
        os.rename(hidden, target)
    except OSError as error:
        # It may have been done, and its answer been lost.
        if os.path.samestat(os.fstat(descriptor), os.stat(target)):
            return True
        if error.errno in _NOT_IN_ITS_PLACE:
            return False
        raise
    return True
