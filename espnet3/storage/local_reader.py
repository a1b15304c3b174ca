"""Reading a local file through a network file system that loses its handle now and then."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from espnet3.storage import permissions


class LocalReader(io.RawIOBase):
    """Reads a file; each read says where it begins, so that it can be tried again.

    Args:
        file: the path.
        do: calls a function, again where its error is transient, and maps its errors.
    """

    def __init__(self, file: str, do: Callable[[Callable[[], int]], int]) -> None:
        self._path, self._do, self._position = file, do, 0
        self._file: io.FileIO | None = None
        do(self._descriptor)

    def _descriptor(self) -> int:
        if self._file is None:
            self._file = io.FileIO(self._path, opener=permissions.regular)
        return self._file.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = 0 if whence == io.SEEK_SET else self._position
        if whence == io.SEEK_END:
            start = self._do(lambda: os.fstat(self._descriptor()).st_size)
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        def read() -> int:
            try:
                return os.preadv(self._descriptor(), [buffer], self._position)
            except OSError:
                self._release()  # a stale handle is mended by opening the file again
                raise

        n = self._do(read)
        self._position += n
        return n

    def close(self) -> None:
        self._release()
        super().close()

    def _release(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()
