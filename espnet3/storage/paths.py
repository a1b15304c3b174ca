"""Paths as the user knows them, which are those that nodes know as well."""

from __future__ import annotations

import os


def absolute(path: str) -> str:
    """As `os.path.abspath`, by the name under which the shell entered the current folder.

    A home is often a link (`/home/me` to `/raid7/me`), and nodes may lack the place behind it. The
    operating system tells that place alone; the shell tells the name in `$PWD`, which is believed
    where it is the same folder.

    Args:
        path: relative ones are meant from the current folder.

    Example:
        >>> absolute("/shared/../shared/decode")
        '/shared/decode'
    """
    return as_entered(os.path.abspath(path))


def as_entered(path: str) -> str:
    """An absolute path by the name under which the shell entered the current folder.

    It stays as it is where it does not lie where that name leads.
    """
    names = _names_of_here()
    if names is None:
        return path
    physical, entered = names
    if path != physical and not path.startswith(f"{physical.rstrip('/')}/"):
        return path
    changed = f"{entered.rstrip('/')}{path[len(physical.rstrip('/')) :]}"
    return changed if _is_same(path, changed) else path


def same_file(path: str, other: str) -> bool:
    """Whether two paths name one file."""
    return path == other or (
        os.path.exists(path) and os.path.exists(other) and os.path.samefile(path, other)
    )


def readable(path: str) -> bool:
    """Whether all bytes of a path are text in UTF-8, as JSON needs it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names_of_here() -> tuple[str, str] | None:
    """A folder above the current one, or itself, by its place and by the name of it in $PWD.

    What both have in common at their ends is left out, so that what lies beside is found too.
    """
    entered = os.environ.get("PWD", "")
    try:
        physical = os.getcwd()
        if entered == physical or not os.path.isabs(entered) or not readable(entered):
            return None
        if os.path.normpath(entered) != entered or not os.path.samefile(entered, physical):
            return None
    except OSError:  # the current folder is gone, or that of the shell
        return None
    above = os.path.dirname(physical), os.path.dirname(entered)
    while os.path.basename(physical) == os.path.basename(entered) and os.path.samefile(*above):
        physical, entered = above
        above = os.path.dirname(physical), os.path.dirname(entered)
    return physical, entered


def _is_same(path: str, other: str) -> bool:
    """Whether two paths lead to the same place, of which the end may be yet to be made."""
    while not os.path.lexists(path):
        if os.path.lexists(other) or os.path.basename(path) != os.path.basename(other):
            return False
        path, other = os.path.dirname(path), os.path.dirname(other)
    return same_file(path, other)
