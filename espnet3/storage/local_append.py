"""A file of a local store that is being written: what it takes is counted, and its errors stay."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from espnet3.errors import StoreError
from espnet3.storage.base import AppendFile
from espnet3.storage.retry import RetryPolicy
from espnet3.text import counted

_NOT_OURS = "is not open any more: its descriptor was closed, by forward say, or is another file's"


class LocalAppendFile(AppendFile):
    """Writes to a new file, whose descriptor others in this process may close or use by mistake.

    Args:
        file: the path.
        descriptor: of the file, open for appending.
        retry: for looks that may be repeated.
        mapped: a context that maps errors of the file.
    """

    def __init__(
        self,
        file: str,
        descriptor: int,
        retry: RetryPolicy,
        mapped: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._file, self._descriptor = file, descriptor
        self._retry, self._mapped = retry, mapped
        self._broken: StoreError | None = None
        found = os.fstat(descriptor)
        self._identity, self._size = (found.st_dev, found.st_ino), found.st_size

    def write(self, data: bytes) -> None:
        with self._unbroken():
            view = memoryview(data)
            # The file's own position, which costs no look at the storage as its size may.
            if os.lseek(self._descriptor, 0, os.SEEK_CUR) != self._size:
                raise OSError(errno.EBADF, _NOT_OURS)
            while view:
                written = os.write(self._descriptor, view)
                self._size += written
                view = view[written:]

    def sync(self) -> None:
        # Never repeated: a second fsync may succeed although the first one lost what was written.
        with self._unbroken():
            self._require_own()
            os.fsync(self._descriptor)
            self._require_size({os.fstat(self._descriptor).st_size})

    def close(self) -> None:
        if self._broken is not None:  # it was told, and nothing is vouched for
            if self._is_own():
                with self._mapped():
                    os.close(self._descriptor)
            return
        with self._unbroken():
            self._require_own()
            try:
                sizes = {os.fstat(self._descriptor).st_size}
                sizes.add(self._retry.call(lambda: os.stat(self._file)).st_size)
            finally:
                os.close(self._descriptor)
            self._require_size(sizes)

    def _is_own(self) -> bool:
        """Whether nobody has taken the descriptor: closing another file would do harm."""
        try:
            found = os.fstat(self._descriptor)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def _require_own(self) -> None:
        if not self._is_own():
            raise OSError(errno.EBADF, _NOT_OURS)

    def _require_size(self, sizes: set[int]) -> None:
        for size in sizes - {self._size}:
            words = f"has {counted(size, 'byte')}, and {self._size} were written"
            raise OSError(errno.EIO, words)

    @contextlib.contextmanager
    def _unbroken(self) -> Iterator[None]:
        if self._broken is not None:
            raise self._broken
        try:
            yield
        except OSError as error:
            lost = error.errno in (errno.EBADF, errno.ESPIPE)  # a pipe's, say
            problem = _NOT_OURS if lost else error.strerror or str(error)
            self._broken = StoreError(self._file, problem)
            raise self._broken from None
