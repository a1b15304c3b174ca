"""The merged file: at a path or URL, and only ever whole."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, BinaryIO, Protocol

from espnet3.errors import StoreError
from espnet3.run_dir.output_names import expanded, is_special, local_path
from espnet3.storage.base import mapped
from espnet3.storage.concurrency import submit_in_context
from espnet3.storage.permissions import make_folders, removed_on_error, replacing
from espnet3.text import one_line

SYNC_EVERY = 32 << 20  # bytes


class Target(Protocol):
    """What a merge writes to."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


@contextlib.contextmanager
def open_output(output: str) -> Iterator[Target]:
    """Open a file that appears, or is replaced, when the block ends without an error.

    Folders that are missing are made. A symlink stays one; a device or pipe takes the bytes as they
    come. `file://` is a path, too: fsspec would write it in $TMPDIR and move it, which on another
    file system is not a single step.

    Args:
        output: a path or an fsspec URL.

    Raises:
        StoreError: it cannot be written.
    """
    path = local_path(output)
    with mapped(output), _remote(output) if path is None else _local(path) as target:
        yield target


def output_exists(output: str) -> bool:
    """Whether there is a file at a path or URL.

    Raises:
        StoreError: that cannot be told.
    """
    path = local_path(output)
    if path is not None:
        return os.path.isfile(expanded(path))
    import fsspec

    with _all_mapped(output):
        fs, path = fsspec.url_to_fs(output)
        return bool(fs.exists(path))


@contextlib.contextmanager
def _local(output: str) -> Iterator[Target]:
    path = expanded(output)
    if is_special(path):  # replaced, /dev/null would be a file for the whole host
        with open(path, "wb") as stream:
            yield stream
        return
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    with removed_on_error([folder]):
        _make_folders(folder)
        with replacing(path) as file, ThreadPoolExecutor(1) as thread:
            synced = _SyncedFile(file, thread)
            yield synced
            synced.sync()


def _make_folders(folder: str) -> None:
    if os.path.isdir(folder):
        return
    try:
        make_folders(folder)
    except FileExistsError as error:  # said as where a file is opened below a file
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error


class _SyncedFile:
    """A file that goes to the disk while it grows, so that little is left for its last sync."""

    def __init__(self, file: BinaryIO, thread: Executor) -> None:
        self._file, self._thread = file, thread
        self._unsynced = 0
        self._syncing: Future[None] | None = None

    def write(self, data: bytes, /) -> object:
        self._unsynced += len(data)
        if self._unsynced > SYNC_EVERY and (self._syncing is None or self._syncing.done()):
            self._raise_sync_error()
            self._unsynced = 0
            self._syncing = submit_in_context(self._thread, os.fsync, self._file.fileno())
        return self._file.write(data)

    def sync(self) -> None:
        self._file.flush()
        self._raise_sync_error()
        os.fsync(self._file.fileno())

    def _raise_sync_error(self) -> None:
        """Raise what the last sync met: the kernel tells an error only once."""
        if self._syncing is not None:
            self._syncing.result()


@contextlib.contextmanager
def _remote(output: str) -> Iterator[Target]:
    import fsspec

    with _all_mapped(output):
        fs, path = fsspec.url_to_fs(output)
        file = fs.open(path, "wb", autocommit=False)
    try:
        yield _RemoteFile(file, output)
        with _all_mapped(output):
            file.close()
            file.commit()
    except BaseException:
        # Parts that were sent already would be paid for; whether they are removed decides nothing.
        with contextlib.suppress(Exception):
            file.discard()
        # Or it would send what it still holds when it is thrown away.
        with contextlib.suppress(AttributeError):
            file.closed = True
        raise


class _RemoteFile:
    """A file of fsspec that raises StoreError."""

    def __init__(self, file: Any, output: str) -> None:
        self._file, self._output = file, output

    def write(self, data: bytes, /) -> object:
        with _all_mapped(self._output):
            return self._file.write(data)


@contextlib.contextmanager
def _all_mapped(output: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every file system raises its own libraries' errors too
        problem = one_line(str(error), 200) or type(error).__name__
        if isinstance(error, NotImplementedError):
            problem = f"{output.partition('://')[0]} URLs cannot be written; choose another output"
        raise StoreError(output, problem) from error
