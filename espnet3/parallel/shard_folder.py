"""The folder of a shard that is written here or by a Dask worker: whose it is, and what is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from espnet3.errors import OutputError
from espnet3.storage.permissions import replacing
from espnet3.user_code.writers import DONE, flush_writers

LOCK = "lock"  # in a shard's folder, as in ESPnet3
PROGRESS = "progress.json"
_OWN = frozenset({LOCK, PROGRESS, DONE})
# A killed worker's lock is held by processes that it forked, until they have noticed.
PATIENCE = 10.0  # seconds


def without_link(folder: Path) -> Path:
    """The path, without the link to a run's files that `collect` may have made of it."""
    if folder.is_symlink():
        folder.unlink()
    return folder


def empty(folder: Path) -> int:
    """Remove what a folder holds, but for its lock; that it was whole goes first.

    Returns:
        How many items are in it then: 0.

    Raises:
        OutputError: something cannot be removed.
    """
    try:
        (folder / DONE).unlink(missing_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
        for entry in [*os.scandir(folder)]:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            elif entry.name != LOCK:
                os.unlink(entry.path)
    except OSError as error:
        raise OutputError(str(folder), f"cannot be emptied ({error.strerror})") from None
    return 0


class _Kept(BaseModel):
    """How far an append-only shard has come: finished items, and how large its files were then."""

    model_config = ConfigDict(strict=True, extra="forbid")

    position: int
    sizes: dict[str, int]


def keep(folder: Path, position: int, state: Any) -> None:
    """Note that the first `position` items of a shard are in its files; its writers are flushed.

    Nothing is noted where they may hold some of what they were given.
    """
    if not flush_writers(state):
        return
    sizes = {os.path.relpath(file, folder): file.lstat().st_size for file in _files(folder)}
    with replacing(str(folder / PROGRESS)) as file:
        file.write(_Kept(position=position, sizes=sizes).model_dump_json().encode())


def _files(folder: Path) -> Iterator[Path]:
    for path, _, names in os.walk(folder):
        for name in names:
            if path != str(folder) or name not in _OWN:
                yield Path(path, name)


def forget(folder: Path) -> None:
    """Remove what was noted of a shard that is whole now."""
    (folder / PROGRESS).unlink(missing_ok=True)


def kept(folder: Path) -> int:
    """How many items of a shard are kept; its files are as they were after that one.

    All else is removed; everything, where that cannot be had any more.
    """
    try:
        found = _Kept.model_validate_json((folder / PROGRESS).read_bytes())
        for file in [*_files(folder)]:
            _cut(file, found.sizes.pop(os.path.relpath(file, folder), None))
        if found.sizes:
            raise FileNotFoundError(*found.sizes)
    except (OSError, ValidationError):
        return empty(folder)
    (folder / DONE).unlink(missing_ok=True)
    return found.position


def _cut(file: Path, size: int | None) -> None:
    """Bring a file to the size that it had; remove it where there was none."""
    if size is None:
        file.unlink()
    elif file.is_symlink():
        return  # what it leads to is not ours
    elif file.stat().st_size < size:
        raise FileNotFoundError(file)
    else:
        os.truncate(file, size)
