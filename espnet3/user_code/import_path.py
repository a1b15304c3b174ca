"""Where modules are found: `sys.path` of another process, or folders, merged with this one's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator


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
