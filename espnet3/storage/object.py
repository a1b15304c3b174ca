"""A run directory in an object store, through fsspec: `s3://…`, `gs://…`.

Only file systems whose `pipe_file(mode="create")` is one atomic conditional put are accepted; the
rest look first and write then, so that two workers could both believe to have published a file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, NamedTuple, TypeVar

from espnet3.errors import FileMissing, FileTaken, FileTooLarge, RunDirectoryError, StoreError
from espnet3.storage.base import IN_FLIGHT, MAX_DOCUMENT, AppendFile, Store
from espnet3.storage.retry import is_transient
from espnet3.text import counted, one_line

T = TypeVar("T")
_BLOCK = 4 * 2**20  # bytes that an open file holds
_PART, _MOST_PARTS = 16 * 2**20, 9_000  # bytes of a part of an upload; S3 takes 10,000
_WRITER = "espnet3-writer"


class _Backend(NamedTuple):
    """What differs between the accepted file systems.

    Attributes:
        extra: the extra of espnet3 that installs it; "" where fsspec has it.
        metadata: the argument of `pipe_file` for an object's own metadata; "" where it has none.
        read: arguments of `cat_file` for a whole file.
    """

    extra: str
    metadata: str
    read: dict[str, Any]


# By default s3fs asks for the size before it reads a file, which doubles the requests.
_S3 = _Backend("s3", "Metadata", {"max_concurrency": 1})
_GCS = _Backend("gcs", "metadata", {})
# fsspec's memory is one process's own and made exclusive by the lock below: it is for tests.
_MEMORY = _Backend("", "", {})
_BACKENDS = {"s3": _S3, "s3a": _S3, "gs": _GCS, "gcs": _GCS, "memory": _MEMORY}
_MEMORY_LOCK = threading.RLock()

# What S3 and the stores that speak its protocol say to a conditional put that lost.
_CONFLICT_CODES = ("PreconditionFailed", "ConditionalRequestConflict", "409", "412")
# What they say where the same request may succeed a moment later.
_BUSY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_BUSY_CODES = frozenset({"SlowDown", "Throttling", "RequestTimeout", "OperationAborted"})


class ObjectStore(Store):
    """A run directory in an object store.

    Options and credentials come from where fsspec's file systems take them: `AWS_ENDPOINT_URL`,
    `AWS_PROFILE`, `FSSPEC_S3_…`, `~/.config/fsspec`, and so on.

    Args:
        url: the run directory.

    Raises:
        RunDirectoryError: the file system is not installed or has no exclusive create.

    Example:
        >>> store = ObjectStore("memory://bucket/example")
        >>> store.create("run.json", b"{}")
        >>> store.read("run.json")
        b'{}'
    """

    can_append = False

    def __init__(self, url: str) -> None:
        protocol, _, path = url.partition("://")
        self.root = f"{protocol}://{path.rstrip('/')}"
        backend = _BACKENDS.get(protocol)
        if backend is None or "::" in self.root:
            raise RunDirectoryError(
                url,
                f"{one_line(protocol, 60)!r} has no atomic create, so two workers could overwrite "
                "each other's files; use a folder on a shared file system, s3:// or gs://",
            )
        if not path.rstrip("/"):
            raise RunDirectoryError(url, f"names no bucket; give {protocol}://bucket/run")
        self._backend = backend
        self._guard = _MEMORY_LOCK if backend is _MEMORY else contextlib.nullcontext()
        self._fs, self._base = _connect(url, self.root, backend)
        self._passing = _passing_errors(backend)

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        data = self._do(
            path, lambda: bytes(self._fs.cat_file(self._full(path), **self._backend.read))
        )
        if len(data) > limit:
            raise FileTooLarge(self.locate(path), len(data), limit)
        return data

    def open(self, path: str) -> BinaryIO:
        size = self._size(path)
        if size is None:
            raise FileMissing(self.locate(path))
        return io.BufferedReader(_ObjectReader(self, path, size), _BLOCK)

    def read_beginning(self, path: str, size: int) -> bytes:
        def read() -> bytes:
            try:
                return bytes(self._fs.cat_file(self._full(path), start=0, end=size))
            except Exception as error:
                if isinstance(error, FileNotFoundError) or self._is_transient(error):
                    raise
                return b""  # of an empty object no range can be had

        data = self._do(path, read) if size else b""
        return data if len(data) == size > 0 else super().read_beginning(path, size)

    def modified(self, path: str) -> float | None:
        return self._do(path, lambda: float(self._fs.modified(self._full(path)).timestamp()))

    def create(self, path: str, data: bytes, *, durable: bool = True) -> None:
        # A request is repeated where its answer was lost, so a conflict may be with its own first
        # try: the object itself says who wrote it.
        token = secrets.token_hex(16)
        options = {self._backend.metadata: {_WRITER: token}} if self._backend.metadata else {}

        def put() -> None:
            try:
                self._fs.pipe_file(self._full(path), data, mode="create", **options)
            except Exception as error:
                conflict = _is_conflict(error)
                if not conflict and not self._is_transient(error):
                    raise
                writer = self._writer(path)
                if writer == token:
                    return
                if writer is not None:
                    raise FileTaken(self.locate(path)) from None
                if conflict:
                    words = "the store reports a conflict, but there is no file"
                    raise OSError(errno.EAGAIN, words) from None
                raise

        self._do(path, put)

    def replace(self, path: str, data: bytes) -> None:
        self._do(path, lambda: self._fs.pipe_file(self._full(path), data))

    def append(self, path: str) -> AppendFile:
        raise StoreError(
            self.locate(path), "object stores cannot append; create a file per part instead"
        )

    def upload(self, path: str, source: str) -> None:
        def put() -> None:
            options: dict[str, int] = {}
            if self._backend is _S3:  # by itself it would hold half a gigabyte
                part = max(_PART, -(-os.stat(source).st_size // _MOST_PARTS))
                options = {"chunksize": part, "max_concurrency": 2}
            self._fs.put_file(source, self._full(path), **options)

        self._do(path, put)

    def names(self, folder: str) -> list[str]:
        full = self._full(folder)
        try:
            entries = self._do(folder, lambda: self._fs.ls(full, detail=True, refresh=True))
        except FileMissing:
            return []
        files = (entry["name"].rpartition("/") for entry in entries if entry["type"] == "file")
        return [name for at, _, name in files if at == full and name and not name.startswith(".")]

    def prepare(self, folders: Iterable[str]) -> None:
        # Object stores have no folders. Some that speak S3's protocol ignore the condition of a
        # put, which would lose results without a word, so try it once.
        probe = f".probe-{secrets.token_hex(8)}"
        try:
            self.create(probe, b"1")
            try:
                self.create(probe, b"2")
            except FileTaken:
                return
            finally:
                with contextlib.suppress(StoreError):
                    self._do(probe, lambda: self._fs.rm_file(self._full(probe)))
        except FileMissing:
            raise RunDirectoryError(self.root, "there is no such bucket; make it first") from None
        except StoreError as error:
            problem = str(error).removeprefix(f"{error.file}: ")
            raise RunDirectoryError(
                self.root, f"cannot be written ({problem}); check the credentials and the endpoint"
            ) from error
        raise RunDirectoryError(
            self.root,
            "this store ignores the condition of a put (If-None-Match), so two workers could "
            "overwrite each other's files; use a folder on a shared file system",
        )

    def exists(self, path: str) -> bool:
        if self._backend is _S3:  # `info` looks for a folder too: a LIST, twelve times as dear
            return self._writer(path) is not None
        return self._size(path) is not None

    def walk(self) -> list[str]:
        """The paths of all objects of the run directory."""
        return [path for path, _ in self.sizes()]

    def sizes(self) -> list[tuple[str, int]]:
        """The paths of all objects of the run directory, and their sizes in bytes."""
        try:
            found = self._do("", lambda: self._fs.find(self._base, detail=True))
        except FileMissing:
            return []
        start = f"{self._base}/"
        return [
            (name.removeprefix(start), int(each.get("size") or 0))
            for name, each in found.items()
            if name.startswith(start) and each["type"] == "file"
        ]

    def folders(self) -> list[str]:
        """The names directly below the root that something lies under."""
        try:
            found = self._do("", lambda: self._fs.ls(self._base, detail=True, refresh=True))
        except FileMissing:
            return []
        start = f"{self._base}/"
        names = (each["name"].rstrip("/") for each in found if each["type"] == "directory")
        return [name.removeprefix(start) for name in names if name.startswith(start)]

    def delete(self, path: str) -> None:
        """Delete an object; one that is gone is no error.

        Raises:
            StoreError: it cannot be deleted.
        """
        with contextlib.suppress(FileMissing):
            self._do(path, lambda: self._fs.rm_file(self._full(path)))

    def _full(self, path: str) -> str:
        return f"{self._base}/{path}".rstrip("/")

    def _size(self, path: str) -> int | None:
        """The size of a file, or None where there is none."""
        try:
            info = self._do(path, lambda: self._fs.info(self._full(path)))
        except FileMissing:
            return None
        return info["size"] if info["type"] == "file" else None

    def _writer(self, path: str) -> str | None:
        """The token of the file's creator ("" where it left none), or None without a file."""
        if not self._backend.metadata:
            return "" if self.exists(path) else None

        def look() -> str:
            try:
                return self._fs.getxattr(self._full(path), _WRITER) or ""
            except KeyError:
                return ""

        try:
            return self._do(path, look)
        except FileMissing:
            return None

    def _do(self, path: str, action: Callable[[], T]) -> T:
        """Ask the store, again while the error is transient.

        The one place where errors of fsspec's file systems become ours.
        """
        try:
            with self._guard:
                return self.retry.call(action, self._is_transient)
        except FileNotFoundError:
            raise FileMissing(self.locate(path)) from None
        except StoreError:
            raise
        except Exception as error:  # every file system raises its own libraries' errors too
            if _is_conflict(error):
                raise FileTaken(self.locate(path)) from None
            words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            problem = one_line(words, 200) or type(error).__name__
            if self._is_transient(error):
                problem += f" (tried {counted(self.retry.tries, 'time')})"
            raise StoreError(self.locate(path), problem) from error

    def _is_transient(self, error: Exception) -> bool:
        answer = _answer(error)
        if answer is None:
            return isinstance(error, self._passing) or is_transient(error)
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status in _BUSY_STATUS or answer.get("Error", {}).get("Code") in _BUSY_CODES


class _ObjectReader(io.RawIOBase):
    """Reads an object range by range. Objects never change, so neither does the size."""

    def __init__(self, store: ObjectStore, path: str, size: int) -> None:
        self._store, self._path, self._size, self._position = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._range(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._range(self._size)

    def _range(self, length: int) -> bytes:
        first, last = self._position, min(self._position + length, self._size)
        if last <= first:
            return b""
        store = self._store

        def read() -> bytes:
            data: bytes = store._fs.cat_file(store._full(self._path), start=first, end=last)
            if len(data) != last - first:
                raise OSError(errno.EAGAIN, "the answer of the store was cut short")
            return data

        data = store._do(self._path, read)
        self._position = last
        return data


def _connect(url: str, root: str, backend: _Backend) -> tuple[Any, str]:
    """The file system of a URL, and the root's path in it."""
    import fsspec.config
    import fsspec.core

    options: dict[str, Any] = {"use_listings_cache": False}
    if backend is _S3:
        # botocore keeps 10 connections, too few for `create_many`. botocore and s3fs both try
        # again, one within the other (25 to 125 times in all); here only `Store.retry` does.
        own = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        once = {"max_pool_connections": IN_FLIGHT, "retries": {"total_max_attempts": 1}}
        options["config_kwargs"] = {**once, **own}
    try:
        fs, base = fsspec.core.url_to_fs(root, **options)
        if backend is _S3:
            fs.retries = 1
    except ImportError:
        raise RunDirectoryError(
            url, f"its file system is not installed; pip install 'espnet3[{backend.extra}]'"
        ) from None
    return fs, base


def _passing_errors(backend: _Backend) -> tuple[type[Exception], ...]:
    """What the libraries below raise where no answer came, or half of one."""
    if backend is not _S3:
        return (ConnectionError, TimeoutError)
    import botocore.exceptions
    import s3fs.core

    known: tuple[type[Exception], ...] = s3fs.core.S3_RETRYABLE_ERRORS
    # A body that ends early and says that it is whole: what was asked for twice is damaged itself.
    cut = botocore.exceptions.FlexibleChecksumError
    return (ConnectionError, TimeoutError, botocore.exceptions.ConnectionError, cut, *known)


def _answer(error: Exception) -> dict[str, Any] | None:
    """What the store answered, where an error is an answer of S3."""
    answer = getattr(error.__cause__ or error, "response", None)
    return answer if isinstance(answer, dict) else None


def _is_conflict(error: Exception) -> bool:
    """Whether a conditional put found the name taken, or somebody else about to take it."""
    if isinstance(error, FileExistsError):
        return True
    answer = _answer(error)
    return answer is not None and answer.get("Error", {}).get("Code") in _CONFLICT_CODES
