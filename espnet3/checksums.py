"""Checksums as records have them: SHA-256, of bytes as they come."""

from __future__ import annotations

import importlib
from typing import Any

# Of more, what OpenSSL spares outweighs what it takes to load it (a twentieth of a worker's start).
_SMALL = 1 << 16


class Checksum:
    r"""A checksum to which bytes are added; its text is what records have.

    Example:
        >>> found = Checksum()
        >>> found.update(b"one line\n")
        >>> str(found) == checksum(b"one line\n")
        True
    """

    __slots__ = ("_first", "_hash", "_size")

    def __init__(self) -> None:
        self._first: list[bytes] = []
        self._size = 0
        self._hash: Any = None

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes at the end."""
        if self._hash is None:
            self._size += memoryview(data).nbytes
            if self._size <= _SMALL:
                self._first.append(bytes(data))
                return
            self._begin("hashlib", *_BUILT_IN)
        self._hash.update(data)

    def _begin(self, *modules: str) -> None:
        self._hash = _sha256_of(*modules)()
        for data in self._first:
            self._hash.update(data)
        self._first.clear()

    def digest(self) -> bytes:
        """The checksum itself, of 32 bytes."""
        if self._hash is None:
            self._begin(*_BUILT_IN, "hashlib")
        digest: bytes = self._hash.digest()
        return digest

    def __str__(self) -> str:
        return f"sha256:{self.digest().hex()}"


_BUILT_IN = ("_sha2", "_sha256")  # of Python 3.12 and later, and of 3.11


def _sha256_of(*modules: str) -> Any:
    """SHA-256 of the first of some modules that can be imported, now."""
    for module in modules[:-1]:
        try:
            return importlib.import_module(module).sha256
        except (ImportError, OSError):  # it is not there, or no file can be opened
            continue
    return importlib.import_module(modules[-1]).sha256


def checksum(data: bytes) -> str:
    """The checksum of bytes that are all there.

    Example:
        >>> checksum(b"")[:15]
        'sha256:e3b0c442'
    """
    found = Checksum()
    found.update(data)
    return str(found)
