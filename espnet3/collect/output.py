"""The merged file: at a path or URL, and only ever whole."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from espnet3.errors import EspnetError, StoreError, UsageError
from espnet3.specs import layout
from espnet3.storage.concurrency import submit_in_context
from espnet3.storage.permissions import opener, unfinished_name
from espnet3.text import one_line

SYNC_EVERY = 32 << 20  # bytes
_LOCAL = frozenset({"file", "local"})  # protocols of fsspec
# Endings that programs go by. `.json` is of one document; of one record it would even look so.
_OTHER_FORMATS = frozenset({
    ".csv", ".tsv", ".json", ".yaml", ".yml", ".toml", ".xml", ".html", ".md", ".parquet",
    ".pq", ".feather", ".arrow", ".ipc", ".orc", ".avro", ".xls", ".xlsx", ".ods", ".npy",
    ".npz", ".pkl", ".pickle", ".pt", ".pth", ".safetensors", ".h5", ".hdf5", ".mat", ".db",
    ".sqlite", ".duckdb", ".tfrecord", ".ark", ".scp", ".trn", ".ctm", ".srt", ".vtt", ".wav",
    ".flac", ".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4", ".br", ".zip", ".tar", ".tgz",
    ".7z",
})  # fmt: skip


class Target(Protocol):
    """What a merge writes to."""

    def write(self, data: bytes, /) -> object:
        """Take the next bytes."""


@contextlib.contextmanager
def open_output(output: str) -> Iterator[Target]:
    """Open a file that appears, or is replaced, when the block ends without an error.

    A symlink stays one; a device or pipe takes the bytes as they come. `file://` is a path, too:
    fsspec would write it in $TMPDIR and move it, which on another file system is not a single step.

    Args:
        output: a path or an fsspec URL.

    Raises:
        StoreError: it cannot be written.
    """
    path = _local_path(output)
    try:
        with _remote(output) if path is None else _local(path) as target:
            yield target
    except EspnetError:
        raise
    except OSError as error:
        raise StoreError(output, error.strerror or str(error)) from None


def require_outside(root: str, output: str) -> None:
    """Refuse to write a merge over the files of its own run.

    Args:
        root: the run directory, a path or URL.
        output: a path or an fsspec URL.

    Raises:
        UsageError: it is a name that belongs to the run.
    """
    if not output:
        raise UsageError("output: is empty; name a file or URL")
    (storage, path), (own, folder) = _identify(output), _identify(root)
    name = path.removeprefix(f"{folder}/").partition("/")[0]
    its_own = layout.is_own(name) and name != layout.LOGS
    if storage == own and path.startswith(f"{folder}/") and its_own:
        raise UsageError(f"{output}: lies among the run's own files; choose another output")


def require_json_lines(output: str) -> None:
    """Refuse a name that promises another format than the JSON lines that would be written.

    Any other name will do: `.jsonl`, `.txt`, one without an ending, a device or pipe.

    Args:
        output: a path or an fsspec URL.

    Raises:
        UsageError: it names another format, or is `-`.
    """
    if output == "-":
        raise UsageError(
            "output: is -; leave it out for standard output, or write ./- for a file of that name"
        )
    ending = os.path.splitext(output.rpartition("/")[2])[1].lower()
    path = _local_path(output)
    if ending not in _OTHER_FORMATS or (path is not None and _is_special(_absolute(path))):
        return
    raise UsageError(
        f"{output}: {ending} names another format than JSON lines, which is what is written; "
        "choose a name such as results.jsonl"
    )


def _identify(output: str) -> tuple[object, str]:
    """A file system and the path in it, the same for all the names that a file has."""
    url = output.rpartition("::")[2] if "://" in output else output  # behind caches and the like
    path = _local_path(url)
    if path is not None:
        return "", os.path.realpath(_absolute(path))
    import fsspec

    protocol = url.partition("://")[0]
    try:
        kind = fsspec.get_filesystem_class(protocol)
        return kind, str(kind._strip_protocol(url))
    except (ImportError, ValueError):  # said better where it is opened
        return protocol, url


def _local_path(output: str) -> str | None:
    """The path of a local file; None where it is the URL of another one."""
    protocol, separator, path = output.partition("://")
    if not separator:
        return output
    return path if protocol in _LOCAL else None


def _absolute(output: str) -> str:
    return os.path.abspath(os.path.expanduser(output))


def _is_special(path: str) -> bool:
    """Whether it is a device or pipe, which takes what is written to it."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _local(output: str) -> Iterator[Target]:
    path = _absolute(output)
    if _is_special(path):  # replaced, /dev/null would be a file for the whole host
        with open(path, "wb") as stream:
            yield stream
        return
    path = os.path.realpath(path)
    temporary = unfinished_name(path)
    try:
        with open(temporary, "xb", opener=opener) as file, ThreadPoolExecutor(1) as thread:
            synced = _SyncedFile(file, thread)
            yield synced
            synced.sync()
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


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

    with _mapped(output):
        fs, path = fsspec.url_to_fs(output)
        file = fs.open(path, "wb", autocommit=False)
    try:
        yield _RemoteFile(file, output)
        with _mapped(output):
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
        with _mapped(self._output):
            return self._file.write(data)


@contextlib.contextmanager
def _mapped(output: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # every file system raises its own libraries' errors too
        problem = one_line(str(error), 200) or type(error).__name__
        if isinstance(error, NotImplementedError):
            problem = f"{output.partition('://')[0]} URLs cannot be written; choose another output"
        raise StoreError(output, problem) from error
