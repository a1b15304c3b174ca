"""Which run directories there are in a folder; nothing of them is read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from espnet3.errors import RunDirectoryError
from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.storage.object import ObjectStore
from espnet3.storage.opening import open_store
from espnet3.text import one_line

_SHOWN = 5  # runs that an error names


def run_dirs_at(store: Store) -> Iterator[str]:
    """What may be a run directory: a folder itself, else what is directly in it."""
    if isinstance(store, ObjectStore):
        if {layout.RUN, layout.REMOVAL}.intersection(store.names("")):
            yield store.root
        else:
            yield from (f"{store.root}/{name}" for name in store.folders())
        return
    root = store.root
    if not os.path.isdir(root):
        raise RunDirectoryError(root, "is not a folder, so no runs are in it")
    if _is_run(root):
        yield root
        return
    try:
        with os.scandir(root) as entries:
            found = [each.path for each in entries if _may_be_run(each)]
    except OSError as error:
        raise RunDirectoryError(root, f"cannot be listed ({error.strerror})") from None
    for path in found:
        if _is_run(path):
            yield path
        elif _is_run(f"{path}/{layout.RUN_FOLDER}"):
            yield f"{path}/{layout.RUN_FOLDER}"


def run_dirs_in(folder: str | os.PathLike[str]) -> list[str]:
    """The run directories in a folder that is none itself, by name; none in one that is.

    Raises:
        RunDirectoryError, StoreError: as for `list_runs`.

    Example:
        >>> run_dirs_in("/shared/exp/decode")  # doctest: +SKIP
        ['/shared/exp/decode/test_clean/espnet3_run', '/shared/exp/decode/test_other/espnet3_run']
    """
    store = open_store(folder)
    if isinstance(store, ObjectStore) or not os.path.isdir(store.root) or _is_run(store.root):
        return []
    return sorted(run_dirs_at(store))


def named(run_dirs: Sequence[str]) -> str:
    """Run directories in words, for an error; the first of many.

    >>> named(["/a", "/b"])
    '/a, /b'
    """
    names = ", ".join(one_line(each, 10_000) for each in run_dirs[:_SHOWN])
    return f"{names} and {len(run_dirs) - _SHOWN} more" if len(run_dirs) > _SHOWN else names


def _may_be_run(entry: os.DirEntry[str]) -> bool:
    return entry.name[0] != "." and not entry.is_file(follow_symlinks=False)


def _is_run(path: str) -> bool:
    return any(os.path.lexists(f"{path}/{name}") for name in (layout.RUN, layout.REMOVAL))
