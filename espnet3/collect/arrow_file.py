"""What pyarrow writes to: a file of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from espnet3.collect.output import Target


@contextlib.contextmanager
def arrow_file(target: Target) -> Iterator[Any]:
    """A target as a file of pyarrow, which takes nothing more once the block is left.

    Writers of pyarrow end their file when they are thrown away, also after an error.
    """
    passing = _Passing(target)
    try:
        yield pa.PythonFile(passing, mode="w")
    finally:
        passing.closed = True


class _Passing:
    def __init__(self, target: Target) -> None:
        self.closed = False
        self._target = target
        self._position = 0

    def write(self, data: Any) -> int:
        block = bytes(data)
        if not self.closed:
            self._target.write(block)
        self._position += len(block)
        return len(block)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """The target decides when it is written."""

    def close(self) -> None:
        self.closed = True
