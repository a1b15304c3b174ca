"""A folder of many files in a run directory, published as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import NamedTuple

from espnet3.errors import FileTaken
from espnet3.storage import permissions
from espnet3.storage.base import IN_FLIGHT, Store, mapped
from espnet3.storage.local import LocalStore

_A_FOLDER = os.O_RDONLY | os.O_DIRECTORY


class TreeFile(NamedTuple):
    """A file to be written.

    Attributes:
        name: relative to the folder.
        data: its contents.
        mode: rights that it has at most, its owner's aside.
    """

    name: str
    data: bytes
    mode: int = permissions.FILE


def create_tree(
    store: Store, path: str, files: Iterable[TreeFile], links: Iterable[tuple[str, str]]
) -> None:
    """Publish a folder with folders in it; all is durable afterwards.

    On an object store, which has no links, files appear one by one; what is cut short can be
    written again.

    Args:
        store: the run directory.
        path: the folder; the one that it is in exists.
        files: what is in it.
        links: names, and absolute paths that they lead to; taken once all files are.

    Raises:
        FileTaken: there is such a folder, with other contents where it is on an object store.
        StoreError: it cannot be written.
    """
    if isinstance(store, LocalStore):
        _create_folder(store, path, files, links)
        return
    from espnet3.storage.concurrency import in_order

    def create(file: TreeFile) -> None:
        name = f"{path}/{file.name}"
        try:
            store.create(name, file.data)
        except FileTaken:
            if store.read(name) != file.data:
                raise

    for _ in in_order(create, files, IN_FLIGHT):
        pass


def _create_folder(
    store: LocalStore,
    path: str,
    files: Iterable[TreeFile],
    links: Iterable[tuple[str, str]],
) -> None:
    import shutil

    from espnet3.storage.syncfs import can_sync_whole, sync_whole

    target = store.locate(path)
    hidden = permissions.unfinished_name(target)
    whole = can_sync_whole(store.root)
    try:
        with (
            mapped(target),
            permissions.descriptor_of(os.path.dirname(target), _A_FOLDER) as parent,
        ):
            folders = write_tree(hidden, files, links, durable=not whole)
            if whole:
                sync_whole(parent)
            else:
                for folder in reversed(folders):
                    with permissions.descriptor_of(folder, _A_FOLDER) as descriptor:
                        permissions.sync_folder(descriptor)
            if os.path.lexists(target):  # an empty folder would be replaced
                raise FileTaken(target)
            try:
                os.rename(hidden, target)
            except (FileExistsError, NotADirectoryError, OSError):
                if os.path.lexists(target):
                    raise FileTaken(target) from None
                raise
            permissions.sync_folder(parent)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_tree(
    root: str,
    files: Iterable[TreeFile],
    links: Iterable[tuple[str, str]],
    *,
    durable: bool,
) -> list[str]:
    """Write files and links to a new folder, or one that is there and empty.

    Returns:
        All folders, outer ones first.

    Raises:
        OSError: it cannot be done.
    """
    folders: dict[str, None] = {}

    def prepare(folder: str) -> None:
        if folder in folders:
            return
        if folder != root:
            prepare(os.path.dirname(folder))
        with contextlib.suppress(FileExistsError):
            permissions.make_folder(folder)
        folders[folder] = None

    prepare(root)
    for each in files:
        path = os.path.join(root, each.name)
        prepare(os.path.dirname(path))
        with open(path, "xb", 0, opener=permissions.opener) as file:
            if each.mode & permissions.FILE != permissions.FILE:
                os.fchmod(file.fileno(), os.fstat(file.fileno()).st_mode & (each.mode | 0o600))
            permissions.write_whole(file, each.data)
            if durable:
                os.fsync(file.fileno())
    for name, place in links:
        path = os.path.join(root, name)
        prepare(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.symlink(place, path)
    return [*folders]
