"""Where modules are found: whose they are, and `sys.path` merged with that of another process."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator

_ESPNET3 = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def is_users_file(file: str) -> bool:
    """Whether a module's file is the user's own: neither espnet3's, nor installed, nor Python's.

    >>> is_users_file("/home/me/decode.py"), is_users_file(os.__file__)
    (True, False)
    """
    file = os.path.abspath(file)
    installed = "/site-packages/" in file or "/dist-packages/" in file
    return not (installed or file.startswith((_ESPNET3, _LIBRARY)))


def extend_import_path(*, first: Iterable[str] = (), last: Iterable[str] = ()) -> None:
    """Let modules be found in more folders: before this process's own ones, or after them."""
    sys.path[:] = dict.fromkeys([*first, *sys.path, *last])


@contextlib.contextmanager
def extended_import_path(*, first: Iterable[str] = (), last: Iterable[str] = ()) -> Iterator[None]:
    """The same for a while; the path is then as it was before.

    Example:
        >>> with extended_import_path(first=["/shared/recipe"]):
        ...     print(sys.path[0])
        /shared/recipe
        >>> "/shared/recipe" in sys.path
        False
    """
    before = sys.path[:]
    extend_import_path(first=first, last=last)
    try:
        yield
    finally:
        sys.path[:] = before
