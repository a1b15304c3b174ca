"""Descriptors that are kept to be given back where no other is free."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class Spare:
    """Two descriptors, which is what it takes to write a record.

    They are those of a pipe, which is known from whatever else may have taken their numbers: user
    code may close all descriptors, and open its own.

    Example:
        >>> spare = Spare()
        >>> with spare.room():
        ...     os.close(os.open("/dev/null", os.O_RDONLY))
        >>> spare.give_back()
    """

    def __init__(self) -> None:
        self._held: list[tuple[int, int]] = []  # with the inodes
        self.take()

    def take(self) -> None:
        """Keep two again, if there are any and it has none."""
        if not self._held:
            with contextlib.suppress(OSError):
                self._held = [(number, os.fstat(number).st_ino) for number in os.pipe()]

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Give them back for a while."""
        self.give_back()
        try:
            yield
        finally:
            self.take()

    def give_back(self) -> None:
        """Make room for two other descriptors."""
        held, self._held = self._held, []
        for number, inode in held:
            with contextlib.suppress(OSError):
                if os.fstat(number).st_ino == inode:
                    os.close(number)
