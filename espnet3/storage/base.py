"""The store: the few file operations that a run needs, and what each of them promises.

Two kinds exist. `espnet3.storage.local.LocalStore` serves paths (a laptop's disk, NFS, Lustre,
GPFS); `espnet3.storage.opening.open_store` returns one without importing fsspec.
`espnet3.storage.object.ObjectStore` serves fsspec URLs whose file system has an atomic
conditional put.

Promises, the same for both and tested by one suite:

- `create` is atomic and exclusive: a reader sees all of a file or nothing, and of any number of
  concurrent creators of one name exactly one succeeds.
- what `create` and `AppendFile.sync` returned from is durable.
- an operation that meets a transient error is tried again, as `espnet3.storage.retry` says.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from espnet3.errors import FileMissing, FileTaken, StoreError
from espnet3.storage.retry import PATIENCE, RetryPolicy

IN_FLIGHT = 32  # files that `create_many` writes at the same time
MAX_DOCUMENT = 1 << 30  # bytes of a file that is read as a whole; a sparse one may claim more


@contextlib.contextmanager
def mapped(path: str, *, exactly: bool = False) -> Iterator[None]:
    """Say as a StoreError what the operating system says in the block.

    Args:
        path: the file or folder that the error names.
        exactly: name the one that the operating system names instead, where it does.
    """
    try:
        yield
    except OSError as error:
        named = error.filename if exactly and error.filename else path
        raise StoreError(named, error.strerror or str(error)) from None


class AppendFile(ABC):
    """A file that grows, by its one writer.

    After an error of `write` or `sync` nobody knows what the file holds behind what was synced, so
    both raise that error from then on, and no later call can vouch for what the failed one lost.
    """

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Hand data to the operating system; it survives the death of this process."""

    @abstractmethod
    def sync(self) -> None:
        """Make all that was written durable; it survives the death of this host."""

    @abstractmethod
    def close(self) -> None:
        """Release the file. Nothing more is promised about what was not synced."""


class Store(ABC):
    """A run directory, as file operations on paths relative to it.

    Every operation may raise StoreError; those that name a file raise FileMissing where there is
    none.

    Attributes:
        root: absolute path or URL of the run directory, without a slash at the end.
        can_append: whether `append` works. Where it does not, results are written as parts.
        retry: when an operation is tried again.
        knows_sizes: whether `read` knows a file's size before it has read it.
        patience: seconds that `await_file` waits.
    """

    root: str
    can_append: bool
    knows_sizes = False
    retry = RetryPolicy()
    patience = PATIENCE

    @abstractmethod
    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """The contents of a file.

        Args:
            path: the file.
            limit: how many bytes it may have.

        Raises:
            FileTooLarge: it has more.
        """

    def await_file(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """The contents of a file that is known to be there.

        Network file systems may show the files of other hosts late, or empty at first.

        Args:
            path: the file.
            limit: as for `read`.

        Raises:
            FileMissing: it is not there after `patience` seconds.
            FileTooLarge: it has more bytes than `limit`.
        """

        def look() -> bytes:
            if data := self.read(path, limit):
                return data
            raise FileMissing(self.locate(path))

        try:
            return self.retry.patiently(look, FileMissing, self.patience)
        except FileMissing:
            return self.read(path, limit)  # empty, if it is there

    def read_filled(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        """The contents of a file, once they are there where it is seen to be empty at first."""
        return self.read(path, limit) or self.await_file(path, limit)

    def await_listed(self, path: str) -> None:
        """Wait until a file that is known to be there stands in the listing of its folder.

        Raises:
            FileMissing: it does not after `patience` seconds.
        """
        folder, _, name = path.rpartition("/")

        def look() -> None:
            if name not in self.names(folder):
                self.refresh(folder)
                raise FileMissing(self.locate(path))

        self.retry.patiently(look, FileMissing, self.patience)

    def refresh(self, folder: str) -> None:
        """Have this host forget what it has cached of a folder, as far as it can."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """Open a file for reading from its beginning."""

    def read_beginning(self, path: str, size: int) -> bytes:
        """The first bytes of a file, or all where it has fewer.

        Args:
            path: the file.
            size: how many bytes; they are held in memory.
        """
        with self.open(path) as stream:
            return stream.read(size)

    def modified(self, path: str) -> float | None:
        """When a file was written last, in seconds since 1970; None where nothing tells.

        That is by the storage's clock, which may be wrong beside this host's: only a hint.
        """
        return None

    @abstractmethod
    def create(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Publish a file, atomically and exclusively.

        Args:
            path: the file; its folder exists (`prepare`).
            data: all of its contents.
            durable: False where the file is only a hint and may be lost with the host.

        Raises:
            FileTaken: a file has the name. This caller's data was not published.
            StoreError: a pipe, a folder or the like has it.
        """

    def create_many(self, folder: str, files: Iterable[tuple[str, bytes]]) -> None:
        """Publish many files of one folder, each as `create` does; all are durable afterwards.

        A file that is there already with the same contents counts as created, so that a plan cut
        short can be written again.

        Args:
            folder: where; it exists (`prepare`).
            files: names, each once, and contents; taken as they are written, some ahead.

        Raises:
            FileTaken: a file is there already with other contents.
        """
        # Imported here because workers never need it.
        from espnet3.storage.concurrency import in_order

        def create(file: tuple[str, bytes]) -> None:
            path, data = f"{folder}/{file[0]}", file[1]
            try:
                self.create(path, data)
            except FileTaken:
                if self.await_file(path) != data:
                    raise

        for _ in in_order(create, files, IN_FLIGHT):
            pass

    @abstractmethod
    def replace(self, path: str, data: bytes) -> None:
        """Write a file in place of one that may be there; of several writers the last one counts.

        A reader sees one of them, whole. It is only a hint, and may be lost with the host.
        """

    @abstractmethod
    def append(self, path: str) -> AppendFile:
        """Create a file that will grow. Nobody else ever uses its name.

        Raises:
            FileTaken: the name is taken.
        """

    def upload(self, path: str, source: str) -> None:
        """Publish a copy of a file of this host; it is durable, and never held as a whole.

        Only where `append` is not: elsewhere it can be written in its place.

        Args:
            path: a name that nobody else ever uses.
            source: the file.
        """
        raise StoreError(self.locate(path), "can be written there; nothing needs to be uploaded")

    def make_durable(self, path: str) -> None:
        """Make durable what another process wrote to a file. Objects are durable as they are."""

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """The names of a folder's files, in no order; none where the folder does not exist.

        Hidden files are left out, and folders.

        Raises:
            StoreError: a pipe, a folder or the like has the name of a record (`.json`).
        """

    @abstractmethod
    def prepare(self, folders: Iterable[str]) -> None:
        """Make the run directory and its folders, where the storage has folders.

        Raises:
            RunDirectoryError: the root cannot become a run directory.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether a file is there.

        Raises:
            StoreError: a pipe, a folder or the like has its name.
        """

    def locate(self, path: str) -> str:
        """The full path or URL of a file, for messages."""
        return f"{self.root}/{path}"
