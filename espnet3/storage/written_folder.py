"""A folder of this host that the user's code writes to: its files made durable, known, uploaded."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from typing import BinaryIO, NamedTuple

from espnet3.checksums import Checksum
from espnet3.errors import StoreError
from espnet3.storage import permissions
from espnet3.storage.base import IN_FLIGHT, Store, mapped
from espnet3.storage.local import LocalStore
from espnet3.text import counted

_A_FOLDER = os.O_RDONLY | os.O_DIRECTORY
_BLOCK = 1 << 20  # bytes
_UPLOADS = 4  # at the same time: each may hold some parts of its file
Seen = tuple[int, int, int]  # a file's number, size and time of its last change


def make_folders(path: str) -> None:
    """Make a folder, and those above it, durably; see `permissions.make_folders`.

    Raises:
        StoreError: it cannot be made.
    """
    with mapped(path, exactly=True):
        permissions.make_folders(path)


class Contents(NamedTuple):
    """What a folder holds.

    Attributes:
        files: all in it and in those below, by their paths in it, in order.
        folders: itself and those below, inner ones first.
    """

    files: dict[str, Seen]
    folders: list[str]


def look_at(folder: str) -> Contents:
    """What a folder holds; links to files are followed.

    Raises:
        StoreError: something is no file, a link to a folder say, and would be lost.
    """
    found = Contents({}, [])
    _look_below(folder, "", found)
    return found._replace(files=dict(sorted(found.files.items())))


def _look_below(folder: str, prefix: str, found: Contents) -> None:
    with mapped(folder, exactly=True), os.scandir(folder) as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                _look_below(entry.path, f"{path}/", found)
                continue
            with mapped(entry.path):
                seen = entry.stat()
            if not stat.S_ISREG(seen.st_mode):
                raise StoreError(entry.path, "is neither a file nor a folder; writers leave files")
            found.files[path] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    found.folders.append(folder)


def close_to_others(folder: str, found: Contents) -> None:
    """Take from everyone the right to write what a folder holds, and the folder.

    Not from what links lead to, which may be no part of it.

    Raises:
        StoreError: they cannot be looked at.
    """
    files = (os.path.join(folder, path) for path in found.files)
    for path in itertools.chain(found.folders, files):
        with mapped(path):
            mode = os.lstat(path).st_mode
            if mode & stat.S_IWOTH and not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) & ~stat.S_IWOTH)


def sync_files(folder: str, paths: Iterable[str], folders: Iterable[str]) -> None:
    """Make some of a folder's files durable, and the names of all.

    Args:
        folder: the folder.
        paths: of files in it.
        folders: as `look_at` found them.

    Raises:
        StoreError: they may not be.
    """
    from espnet3.storage.concurrency import gather  # most workers have no such folder

    def sync(path: str) -> None:
        with mapped(path), permissions.descriptor_of(path, os.O_RDONLY) as descriptor:
            os.fsync(descriptor)

    gather(sync, [os.path.join(folder, path) for path in paths], IN_FLIGHT)
    for each in folders:
        with mapped(each), permissions.descriptor_of(each, _A_FOLDER) as descriptor:
            permissions.sync_folder(descriptor)


def measure(path: str) -> tuple[int, str]:
    """How many bytes a file has, and their checksum.

    Raises:
        StoreError: it cannot be read.
    """
    found, size = Checksum(), 0
    with mapped(path), open(path, "rb", opener=permissions.regular) as file:
        while block := file.read(_BLOCK):
            found.update(block)
            size += len(block)
    return size, str(found)


def has_beginnings(folder: str, sizes: Mapping[str, int]) -> bool:
    """Whether files are there, each of at least so many bytes."""
    for path, size in sizes.items():
        try:
            found = os.stat(os.path.join(folder, path))
        except OSError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_size < size:
            return False
    return True


def copy_beginnings(source: str, target: str, sizes: Mapping[str, int]) -> None:
    """Copy the first bytes of some files to another folder, durably.

    Args:
        source: the folder.
        target: the other one, which is empty.
        sizes: path in it -> how many bytes.

    Raises:
        StoreError: one is shorter, or cannot be copied.
    """
    for path, size in sizes.items():
        old, new = os.path.join(source, path), os.path.join(target, path)
        with mapped(new, exactly=True):
            permissions.make_folders(os.path.dirname(new))
            with (
                open(old, "rb", opener=permissions.regular) as reading,
                open(new, "xb", 0, opener=permissions.opener) as writing,
            ):
                _copy(reading, writing, size, old)
    sync_files(target, sizes, look_at(target).folders)


def _copy(reading: BinaryIO, writing: BinaryIO, size: int, where: str) -> None:
    while size:
        block = reading.read(min(_BLOCK, size))
        if not block:
            raise StoreError(where, f"is {counted(size, 'byte')} shorter than a moment ago")
        size -= len(block)
        permissions.write_whole(writing, block)


def upload_files(store: Store, target: str, folder: str, paths: Iterable[str]) -> None:
    """Upload some of a folder's files, under the same paths.

    Args:
        store: the run directory.
        target: the folder's path in it, which nobody else uses.
        folder: on this host.
        paths: in it.
    """
    from espnet3.storage.concurrency import in_order

    def upload(path: str) -> None:
        store.upload(f"{target}/{path}", os.path.join(folder, path))

    for _ in in_order(upload, paths, _UPLOADS):
        pass


def in_place(store: Store, path: str) -> str | None:
    """Where on this host a folder of a run directory is; None where that is an object store's."""
    return store.locate(path) if isinstance(store, LocalStore) else None
