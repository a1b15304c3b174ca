"""Which run directories there are in a folder; nothing of them is read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain, islice
from typing import NamedTuple

from espnet3.errors import RunDirectoryError
from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather
from espnet3.storage.object import ObjectStore
from espnet3.storage.opening import open_store
from espnet3.text import one_line

_SHOWN = 5  # runs that an error names
MOST_FOLDERS = 10_000  # folders that are looked at below those that lie in the first one
_MOST_NAMES = 100_000  # of what lies in one of these
_READERS = 8  # threads


class FoundRuns(NamedTuple):
    """The run directories in a folder; of some of its folders only, where `is_whole` is False."""

    run_dirs: list[str]
    is_whole: bool = True


class _Folder(NamedTuple):
    path: str
    is_link: bool


class _Listing(NamedTuple):
    folders: list[_Folder]
    is_whole: bool


def find_run_dirs(store: Store, depth: int = 1) -> FoundRuns:
    """What may be a run directory: a folder itself, else what is in it, or in folders in it.

    Nothing is looked for in a run directory, nor in an output folder that has one, nor below a
    link. A link may be a run directory.

    Args:
        store: the folder. Of an object store only what is directly in it is looked at.
        depth: how many folders down; an output folder counts, and not the run in it.

    Raises:
        RunDirectoryError: it is no folder, or cannot be listed.
        StoreError: likewise.
    """
    if isinstance(store, ObjectStore):
        if {layout.RUN, layout.REMOVAL}.intersection(store.names("")):
            return FoundRuns([store.root])
        return FoundRuns([f"{store.root}/{name}" for name in store.folders()])
    root = store.root
    if not os.path.isdir(root):
        raise RunDirectoryError(root, "is not a folder, so no runs are in it")
    if _is_run(root):
        return FoundRuns([root])
    try:
        inside = _folders_in(root).folders
    except OSError as error:
        raise RunDirectoryError(root, f"cannot be listed ({error.strerror})") from None
    found: list[str] = []
    left, is_whole = MOST_FOLDERS, True
    while True:
        runs = gather(_run_at, inside, _READERS)
        found += filter(None, runs)
        depth -= 1
        above = [each for each, run in zip(inside, runs, strict=True) if not (run or each.is_link)]
        if depth < 1 or not above:
            return FoundRuns(found, is_whole)
        listed = gather(_some_folders_in, above[:left], _READERS)
        inside = [*chain.from_iterable(each.folders for each in listed)]
        is_whole &= len(above) <= left >= len(inside) and all(each.is_whole for each in listed)
        inside = inside[:left]
        left -= len(inside)


def run_dirs_in(folder: str | os.PathLike[str]) -> list[str]:
    """The run directories in a folder that is none itself, by name; none in one that is.

    One that links lead to as well, such as `latest`, is there once.

    Raises:
        RunDirectoryError, StoreError: as for `find_run_dirs`.

    Example:
        >>> run_dirs_in("/shared/exp/decode")  # doctest: +SKIP
        ['/shared/exp/decode/test_clean/espnet3_run', '/shared/exp/decode/test_other/espnet3_run']
    """
    store = open_store(folder)
    if isinstance(store, ObjectStore) or not os.path.isdir(store.root) or _is_run(store.root):
        return []
    found = sorted(
        find_run_dirs(store).run_dirs, key=lambda run_dir: (os.path.islink(run_dir), run_dir)
    )
    by_place = {os.path.realpath(run_dir): run_dir for run_dir in reversed(found)}
    return sorted(by_place.values())


def stands_in(run_dir: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a run of those that are found in a folder lies there, and no link leads elsewhere.

    Args:
        run_dir: one of `run_dirs_in`.
        folder: where it was looked for; it may be a link itself.
    """
    place = os.path.join(os.path.realpath(open_store(folder).root), "")
    return os.path.realpath(run_dir).startswith(place)


def named(run_dirs: Sequence[str]) -> str:
    """Run directories in words, for an error; the first of many.

    >>> named(["/a", "/b"])
    '/a, /b'
    """
    names = ", ".join(one_line(each, 10_000) for each in run_dirs[:_SHOWN])
    return f"{names} and {len(run_dirs) - _SHOWN} more" if len(run_dirs) > _SHOWN else names


def _folders_in(folder: str, most: int | None = None) -> _Listing:
    """The folders in one, and the links."""
    with os.scandir(folder) as entries:
        found = [
            _Folder(each.path, each.is_symlink())
            for each in islice(entries, most)
            if each.name[0] != "." and not each.is_file(follow_symlinks=False)
        ]
        return _Listing(found, next(entries, None) is None)


def _some_folders_in(folder: _Folder) -> _Listing:
    try:
        return _folders_in(folder.path, _MOST_NAMES)
    except (NotADirectoryError, FileNotFoundError, PermissionError):  # or somebody else's
        return _Listing([], True)
    except OSError:
        return _Listing([], False)


def _run_at(folder: _Folder) -> str | None:
    """The run directory that a folder is, or that lies in it as an output folder."""
    return next(filter(_is_run, (folder.path, f"{folder.path}/{layout.RUN_FOLDER}")), None)


def _is_run(path: str) -> bool:
    return any(os.path.lexists(f"{path}/{name}") for name in (layout.RUN, layout.REMOVAL))
