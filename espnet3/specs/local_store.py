"""The store of a run directory on a POSIX file system, shared or not."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from espnet3.specs import modes
from espnet3.specs.errors import FileMissing, FileTaken, RunDirectoryError, StoreError
from espnet3.specs.local_reader import LocalReader
from espnet3.specs.retry import is_transient
from espnet3.specs.store import MAX_DOCUMENT, AppendFile, Store

T = TypeVar("T")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})
_BLOCK = 1 << 17  # bytes that an open file holds


class LocalStore(Store):
    """A run directory on a POSIX file system, shared or not."""

    can_append = True

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def read(self, path: str) -> bytes:
        def read() -> bytes:
            with open(self.locate(path), "rb", opener=modes.regular) as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_DOCUMENT:
                    raise StoreError(self.locate(path), f"has {size} bytes, which no record has")
                return file.read()

        return self._do(path, read)

    def open(self, path: str) -> BinaryIO:
        return io.BufferedReader(
            LocalReader(self.locate(path), lambda action: self._do(path, action)), _BLOCK
        )

    def create(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._publish(path, data, durable)
        if durable:
            self._sync_folder(os.path.dirname(path))

    def create_many(self, files: Iterable[tuple[str, bytes]]) -> Iterator[str]:
        # Each file is synced before it has its name. A journaling file system commits together what
        # waits for it at the same time.
        folders = set()

        def noted() -> Iterator[tuple[str, bytes]]:
            for path, data in files:
                folders.add(os.path.dirname(path))
                yield path, data

        yield from super().create_many(noted())
        for folder in folders:
            self._sync_folder(folder)

    def _create_one_of_many(self, path: str, data: bytes) -> None:
        self._publish(path, data, durable=True)

    def _publish(self, path: str, data: bytes, durable: bool) -> None:
        # Linking a finished temporary file is atomic and exclusive on NFSv3 and later too; a rename
        # would replace an existing file without a word.
        target = self.locate(path)
        temporary = self._do(path, lambda: self._write_temporary(target, data, durable))
        try:
            self._do(path, lambda: self._link(temporary, target))
        finally:
            self._remove(temporary)

    def _write_temporary(self, target: str, data: bytes, durable: bool) -> str:
        folder, name = os.path.split(target)
        temporary = os.path.join(folder, f".{name}.{os.urandom(6).hex()}.tmp")
        try:
            with open(temporary, "xb", 0, opener=modes.opener) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
                if durable:
                    os.fsync(file.fileno())
        except BaseException:
            self._remove(temporary)
            raise
        return temporary

    def _link(self, temporary: str, target: str) -> None:
        try:
            os.link(temporary, target)
        except OSError as error:
            # The link may have succeeded, and its answer been lost: then the file has two names.
            if os.stat(temporary).st_nlink == 2:
                return
            if isinstance(error, FileExistsError):
                raise FileTaken(target) from None
            if error.errno in _NO_LINKS:
                problem = (
                    f"no hard link can be made here ({error.strerror}); choose another run_dir"
                )
                raise StoreError(target, problem) from None
            raise

    def _remove(self, temporary: str) -> None:
        # What became of the file is decided by now, and a hidden file that stays does no harm.
        with contextlib.suppress(OSError):
            self.retry.call(lambda: os.unlink(temporary))

    def append(self, path: str) -> AppendFile:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        tries = 0

        def create() -> int:
            nonlocal tries
            tries += 1
            try:
                return os.open(self.locate(path), flags, modes.FILE)
            except FileExistsError:
                # An earlier try may have succeeded and its answer been lost: nobody else uses this
                # name, and nothing was written yet.
                if tries > 1 and os.stat(self.locate(path)).st_size == 0:
                    return os.open(self.locate(path), flags & ~(os.O_CREAT | os.O_EXCL))
                raise FileTaken(self.locate(path)) from None

        descriptor = self._do(path, create)
        try:
            self._sync_folder(os.path.dirname(path))
        except BaseException:
            os.close(descriptor)
            raise
        return _LocalAppendFile(self, path, descriptor)

    def make_durable(self, path: str) -> None:
        with (
            self._do(path, lambda: open(self.locate(path), "rb", opener=modes.regular)) as file,
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
                    return [e.name for e in entries if not e.name.startswith(".") and e.is_file()]
            except FileNotFoundError:
                return []

        return self._do(folder, look)

    def refresh(self, folder: str) -> None:
        # A client that changes a folder itself looks at it anew. It may lack the right to.
        name = os.path.join(self.locate(folder), f".refresh.{os.urandom(6).hex()}.tmp")
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, modes.FILE))
            os.unlink(name)

    def prepare(self, folders: Iterable[str]) -> None:
        try:
            for folder in folders:
                self.retry.call(lambda folder=folder: modes.make_folders(self.locate(folder)))  # type: ignore[misc]
        except (FileExistsError, NotADirectoryError):
            raise RunDirectoryError(
                self.root, "is a file, or below a file; choose another run_dir"
            ) from None
        except OSError as error:
            raise RunDirectoryError(
                self.root, f"cannot be written ({error.strerror}); choose another run_dir"
            ) from None

    def exists(self, path: str) -> bool:
        def look() -> bool:
            try:
                os.stat(self.locate(path))
            except (FileNotFoundError, NotADirectoryError):
                return False
            return True

        return self._do(path, look)

    def _sync_folder(self, folder: str) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY
        descriptor = self._do(folder, lambda: os.open(self.locate(folder), flags))
        with self._mapped(folder):
            try:
                os.fsync(descriptor)
            except OSError as error:
                # Some network file systems cannot sync a folder, and need not.
                if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                    raise
            finally:
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
        tries = f" (tried {self.retry.tries} times)" if is_transient(error) else ""
        return StoreError(self.locate(path), f"{error.strerror or error}{tries}")


class _LocalAppendFile(AppendFile):
    def __init__(self, store: LocalStore, path: str, descriptor: int) -> None:
        self._store, self._path, self._descriptor = store, path, descriptor
        self._broken: StoreError | None = None

    def write(self, data: bytes) -> None:
        with self._unbroken():
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def sync(self) -> None:
        # Never repeated: a second fsync may succeed although the first one lost what was written.
        with self._unbroken():
            os.fsync(self._descriptor)

    def close(self) -> None:
        with self._store._mapped(self._path):
            os.close(self._descriptor)

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except OSError as error:
            problem = error.strerror or str(error)
            self._broken = StoreError(self._store.locate(self._path), problem)
            raise self._broken from None
