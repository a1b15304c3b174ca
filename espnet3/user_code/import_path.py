"""Where modules are found: whose they are, and `sys.path` merged with that of another process."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder

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


def hidden_modules() -> list[str]:
    """Python's and installed modules that are imported here, though an import would find others.

    A folder of the user's that came to `sys.path` after they were imported has their names.
    """
    names: set[str] = set()
    for entry in sys.path:
        folder = entry or os.curdir
        if is_users_file(os.path.join(folder, "module.py")):
            with contextlib.suppress(OSError, ValueError):  # a zip file, or not there
                names.update(file.partition(".")[0] for file in os.listdir(folder))
    return sorted(filter(_is_hidden, names & sys.modules.keys()))


def _is_hidden(name: str) -> bool:
    file = getattr(sys.modules[name], "__file__", None)
    if not isinstance(file, str) or is_users_file(file):
        return False
    found = PathFinder.find_spec(name)
    return found is not None and found.origin is not None and is_users_file(found.origin)


def import_hidden_modules(names: Iterable[str]) -> None:
    """Import what another process had before a folder came that hides it; to be called before, too.

    Example:
        >>> import_hidden_modules(["token"])
    """
    for name in names:
        with contextlib.suppress(ImportError):  # it is not there, so it is as well hidden
            importlib.import_module(name)


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
