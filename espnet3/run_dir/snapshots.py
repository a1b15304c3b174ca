"""The copies of the user's source files that a run may have, for those who import from them."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator

from espnet3.checksums import checksum
from espnet3.errors import InvalidFile
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import CodeRecord, RunSpec
from espnet3.storage.base import IN_FLIGHT
from espnet3.storage.local import LocalStore
from espnet3.storage.tree import TreeFile, write_tree
from espnet3.user_code.sources import with_code_at

_MOST_LINKS = 1000  # in one folder


def with_snapshot(directory: RunDirectory, run: RunSpec, record: CodeRecord) -> RunSpec:
    """A run whose modules and scripts are found in a snapshot.

    One on an object store is fetched to a folder that is removed when this process ends.

    Raises:
        Untrusted: others could have written it.
        StoreError, FormatError: it cannot be fetched.
    """
    store, path = directory.store, layout.snapshot(record.number)
    if isinstance(store, LocalStore):
        files = [f"{path}/{file.root}/{file.name}" for file in record.files]
        folders = {os.path.dirname(file) for file in files}
        directory.require_files([layout.CODE, path, *sorted(folders), *files])
        place = store.locate(path)
    else:
        place = _fetched(directory, record)
    return with_code_at(run, record, [f"{place}/{i}" for i in range(len(record.roots))])


def _fetched(directory: RunDirectory, record: CodeRecord) -> str:
    import shutil
    import tempfile

    from espnet3.storage.concurrency import in_order

    folder, owner = tempfile.mkdtemp(prefix="espnet3-code-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # and no child that was forked
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    store, path = directory.store, layout.snapshot(record.number)
    names = [f"{file.root}/{file.name}" for file in record.files]
    contents = in_order(lambda name: store.read(f"{path}/{name}"), names, IN_FLIGHT)

    def files() -> Iterator[TreeFile]:
        for file, name, data in zip(record.files, names, contents, strict=True):
            if checksum(data) != file.sha256:
                where = store.locate(f"{path}/{name}")
                raise InvalidFile(where, "", "is not what its record vouched for")
            yield TreeFile(name, data)

    write_tree(folder, files(), links_beside(record.roots, names), durable=False)
    return folder


def links_beside(roots: list[str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What lies beside the files of a snapshot and is not part of it: names there, and places.

    Args:
        roots: the folders below which the files were.
        names: the files' names in the snapshot.
    """
    there: dict[str, set[str]] = {}
    for name in names:
        while "/" in name:
            folder, _, base = name.rpartition("/")
            there.setdefault(folder, set()).add(base)
            name = folder
    for folder, own in there.items():
        position, _, below = folder.partition("/")
        place = os.path.join(roots[int(position)], below).rstrip("/") or "/"
        try:
            others = sorted({*os.listdir(place)} - own - {"__pycache__"})
        except OSError:
            continue  # it is not here
        for other in others[:_MOST_LINKS]:
            if not other.startswith("."):
                yield f"{folder}/{other}", os.path.join(place, other)
