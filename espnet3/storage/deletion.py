"""All that is in a run directory: walking over it, and deleting it. No link is ever followed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

from espnet3.errors import FileMissing, StoreError
from espnet3.storage import permissions
from espnet3.storage.base import IN_FLIGHT, Store
from espnet3.storage.local import LocalStore
from espnet3.storage.object import ObjectStore

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_EMPTY = "is not empty: a process has a file in it open, or writes there; do it again later"


class Entry(NamedTuple):
    """What a run directory holds under a name.

    Attributes:
        path: relative to the run directory.
        kind: `other` is a device, a pipe, or a folder where something else is mounted.
    """

    path: str
    kind: Literal["file", "folder", "link", "other"]


def entries(store: Store) -> Iterator[Entry]:
    """All that is in a run directory; a folder comes after what it holds.

    Args:
        store: the run directory; on an object store there are files only.

    Raises:
        StoreError: a folder cannot be read.
    """
    if isinstance(store, LocalStore):
        for entry, _ in _walk(store):
            yield entry
    elif isinstance(store, ObjectStore):
        yield from (Entry(path, "file") for path in store.walk())


def delete_file(store: Store, path: str) -> None:
    """Delete a file at the top of a run directory, durably; one that is gone is no error.

    Raises:
        StoreError: it cannot be deleted.
    """
    if isinstance(store, ObjectStore):
        store.delete(path)
    elif isinstance(store, LocalStore):
        with _mapped(store.locate(path)), permissions.descriptor_of(store.root, _FLAGS) as folder:
            store.retry.call(lambda: _unlink(path, folder))
            permissions.sync_folder(folder)


def delete(store: Store, wanted: Callable[[Entry], bool]) -> int:
    """Delete all that is wanted.

    Args:
        store: the run directory.
        wanted: asked for each entry; a wanted folder that is not empty by then is an error.

    Returns:
        How many files and links were deleted.

    Raises:
        StoreError: something cannot be deleted; the rest stays.
    """
    if isinstance(store, LocalStore):
        return _delete_here(store, wanted)
    if isinstance(store, ObjectStore):
        from espnet3.storage.concurrency import in_order

        paths = (entry.path for entry in entries(store) if wanted(entry))
        return sum(1 for _ in in_order(store.delete, paths, IN_FLIGHT))
    return 0


def delete_root(store: Store) -> None:
    """Delete the folder itself, which is empty by now; an object store has none.

    Raises:
        StoreError: it is not empty, or cannot be deleted.
    """
    if isinstance(store, LocalStore):
        with _mapped(store.root), contextlib.suppress(FileNotFoundError):
            os.rmdir(store.root)


def _delete_here(store: LocalStore, wanted: Callable[[Entry], bool]) -> int:
    deleted = 0
    for entry, folder in _walk(store):
        if not wanted(entry):
            continue
        name = os.path.basename(entry.path)
        with _mapped(store.locate(entry.path)):
            if entry.kind == "folder":
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(name, dir_fd=folder)
            else:
                store.retry.call(lambda name=name, at=folder: _unlink(name, at))  # type: ignore[misc]
                deleted += 1
    return deleted


def _unlink(name: str, folder: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)


def _walk(store: LocalStore) -> Iterator[tuple[Entry, int]]:
    """Each entry, and the open folder that it is in."""
    with _mapped(store.root):
        root = os.open(store.root, _FLAGS)
    try:
        yield from _walk_folder(store, root, "", os.fstat(root).st_dev)
    finally:
        os.close(root)


def _walk_folder(
    store: LocalStore, folder: int, above: str, device: int
) -> Iterator[tuple[Entry, int]]:
    with _mapped(store.locate(above)), os.scandir(folder) as found:
        listed = [(each.name, _kind(each)) for each in found]
    # Folders first: what explains a snapshot goes after it.
    for name, kind in sorted(listed, key=lambda pair: pair[1] != "folder"):
        path = f"{above}{name}"
        if kind == "folder":
            try:
                with _mapped(store.locate(path)):
                    below = os.open(name, _FLAGS, dir_fd=folder)
            except FileMissing:
                continue  # somebody else removes it, too
            try:
                if os.fstat(below).st_dev != device:
                    kind = "other"
                else:
                    yield from _walk_folder(store, below, f"{path}/", device)
            finally:
                os.close(below)
        yield Entry(path, kind), folder


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "link", "other"]:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise FileMissing(path) from None
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise StoreError(path, _NOT_EMPTY) from None
        raise StoreError(path, error.strerror or str(error)) from None
