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
            self._begin(_OPENSSL, *_BUILT_IN)
        self._hash.update(data)

    def _begin(self, *places: tuple[str, str]) -> None:
        self._hash = _sha256_of(*places)()
        for data in self._first:
            self._hash.update(data)
        self._first.clear()

    def digest(self) -> bytes:
        """The checksum itself, of 32 bytes."""
        if self._hash is None:
            self._begin(*_BUILT_IN, _OPENSSL)
        digest: bytes = self._hash.digest()
        return digest

    def __str__(self) -> str:
        return f"sha256:{self.digest().hex()}"


# By the names of what is in C: a `hashlib` may be the user's own by the time it is imported.
_OPENSSL = ("_hashlib", "openssl_sha256")
_BUILT_IN = (("_sha2", "sha256"), ("_sha256", "sha256"))  # of Python 3.12 and later, and of 3.11


def _sha256_of(*places: tuple[str, str]) -> Any:
    """SHA-256 of the first of some modules that can be imported, now."""
    for module, name in places[:-1]:
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, OSError):  # it is not there, or no file can be opened
            continue
    module, name = places[-1]
    return getattr(importlib.import_module(module), name)


def checksum(data: bytes) -> str:
    """The checksum of bytes that are all there.

    Example:
        >>> checksum(b"")[:15]
        'sha256:e3b0c442'
    """
    found = Checksum()
    found.update(data)
    return str(found)
