"""Source files of the user's own: which of them this process has loaded, and what is in them now.

`docs/decisions/0022-code.md` says which files these are.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from espnet3.checksums import Checksum
from espnet3.specs.base import NestedModel
from espnet3.specs.models import Argument, ClassReference, CodeRecord, RunSpec, SourceFile
from espnet3.storage import permissions
from espnet3.storage.paths import as_entered, readable
from espnet3.user_code.import_path import is_users_file
from espnet3.user_code.main_module import MAIN

_TRIES = 5
_BLOCK = 1 << 20
_MOST_NAMED = 3


class Source(NamedTuple):
    """A source file: the folder in which Python finds the module, and the path from there."""

    root: str
    name: str

    @property
    def path(self) -> str:
        return f"{self.root.rstrip('/')}/{self.name}"


def loaded_sources(run: RunSpec) -> list[Source]:
    """The files of the user's modules that this process has loaded, and of the run's scripts.

    To be called once runner and provider are imported.
    """
    found = {_as_known(*os.path.split(os.path.abspath(file))) for file in _scripts(run)}
    modules = {reference.module for reference in _imported(run)}
    for key, module in [*sys.modules.items()]:
        variables = _variables(module)
        spec = getattr(variables.get("__spec__"), "name", None)
        name = spec if isinstance(spec, str) else key
        if key == MAIN and name not in modules:
            continue  # it is a script, if anything
        file = variables.get("__file__")
        if isinstance(file, str) and is_users_file(file):
            source = _source(name, os.path.abspath(file))
            if source is not None:
                found.add(source)
    return sorted(source for source in found if readable(source.path))


def _imported(run: RunSpec) -> Iterator[ClassReference]:
    """Runner, provider, and whatever else a worker imports for sure."""
    yield from (run.runner, run.provider.cls)
    yield from (variable.target for variable in run.assignments)


def _scripts(run: RunSpec) -> set[str]:
    return {reference.file for reference in _imported(run) if reference.file is not None}


def _variables(module: Any) -> Mapping[str, Any]:
    """A module's variables; what imports itself when it is asked for is not asked."""
    try:
        found: Any = object.__getattribute__(module, "__dict__")
    except AttributeError:
        return {}
    return found if isinstance(module, ModuleType) else {}


def _source(module: str, file: str) -> Source | None:
    """Where a module was found: the folder above its outermost package."""
    if not os.path.isfile(file):  # in a zip archive, or gone
        while not os.path.isfile(file):
            file, before = os.path.dirname(file), file
            if file == before:
                return None
        return _as_known(*os.path.split(file))
    parts = module.split(".")
    if not os.path.basename(file).startswith("__init__."):
        parts.pop()
    root = os.path.dirname(file)
    for part in reversed(parts):
        root, name = os.path.split(root)
        if name != part:  # it was loaded by its path, or its package lies in several places
            return _as_known(*os.path.split(file))
    return _as_known(root, os.path.relpath(file, root))


def _as_known(root: str, name: str) -> Source:
    return Source(as_entered(root), name)


def outermost(folders: Iterable[str]) -> list[str]:
    """Folders without those that lie in another one of them.

    >>> outermost(["/a/b", "/a", "/ab"])
    ['/a', '/ab']
    """
    found: list[str] = []
    for folder in sorted({folder.rstrip("/") for folder in folders}):
        if not any(folder.startswith(f"{other}/") for other in found):
            found.append(folder)
    return [folder or "/" for folder in found]


def below(path: str, roots: Sequence[str]) -> tuple[int, str] | None:
    """Which of some folders a path lies in or is, and its name from there; None for none.

    >>> below("/a/b/c.py", ["/x", "/a"]), below("/a", ["/a"]), below("/ab", ["/a"])
    ((1, 'b/c.py'), (0, ''), None)
    """
    for position, root in enumerate(roots):
        bare = root.rstrip("/")
        if path == root or path.startswith(f"{bare}/"):
            return position, path[len(bare) + 1 :]
    return None


def read_whole(path: str) -> tuple[bytes, int]:
    """A file as it was at one moment, though somebody may be saving it; and its mode.

    Raises:
        OSError: it cannot be read.
    """
    for _ in range(_TRIES):
        with open(path, "rb", opener=permissions.regular) as file:
            before = os.fstat(file.fileno())
            data = file.read()
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, len(data)):
            break
    return data, after.st_mode


def differing(record: CodeRecord) -> list[SourceFile]:
    """The recorded files that are not there any more as they were."""
    return [file for file in record.files if not _is_same(record.path_of(file), file)]


def _is_same(path: str, file: SourceFile) -> bool:
    try:
        # As little as can be: a worker does this for each file.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if os.fstat(descriptor).st_size != file.size:
                return False
            found = Checksum()
            while data := os.read(descriptor, _BLOCK):
                found.update(data)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return file.sha256 == str(found)


def named(record: CodeRecord, files: Sequence[SourceFile]) -> str:
    """Some files of a record, for a person: `decode.py, lib/net.py and 4 more`.

    Those that are gone are said to be.
    """
    words = [
        file.name if os.path.exists(record.path_of(file)) else f"{file.name} (gone)"
        for file in files[:_MOST_NAMED]
    ]
    more = len(files) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")


def with_code_at(run: RunSpec, record: CodeRecord, folders: Sequence[str]) -> RunSpec:
    """A run whose modules and scripts are found in copies of the files.

    Args:
        run: the run.
        record: what was copied.
        folders: where each of the record's roots is.
    """
    known = {*record.roots, *map(record.path_of, record.files)}
    for file in record.files:  # and the folders between
        folder = os.path.dirname(record.path_of(file))
        while folder not in known:
            known.add(folder)
            folder = os.path.dirname(folder)

    def moved(path: str) -> str:
        place = below(path, record.roots) if path in known else None
        return path if place is None else os.path.join(folders[place[0]], place[1]).rstrip("/")

    path = [entry.rstrip("/") or "/" for entry in run.sys_path]
    path += [entry for entry in record.import_path if entry not in path]
    # What was not copied is still found where it was.
    path = [*dict.fromkeys([*map(moved, path), *path])]
    fields = {"runner": run.runner, "provider": run.provider, "assignments": run.assignments}
    if run.process is not None:
        fields["process"] = run.process
    changed = {name: _with_files(value, moved) for name, value in fields.items()}
    return run.model_copy(update={**changed, "sys_path": path})


def _with_files(value: Any, moved: Callable[[str], str]) -> Any:
    """The same, with every script that it refers to in its new place."""
    if isinstance(value, ClassReference):
        return value if value.file is None else value.model_copy(update={"file": moved(value.file)})
    if isinstance(value, NestedModel):
        names = ["restored"] if isinstance(value, Argument) else [*vars(value)]
        update = {name: _with_files(getattr(value, name), moved) for name in names}
        return value.model_copy(update=update)
    if isinstance(value, list):
        return [_with_files(part, moved) for part in value]
    if isinstance(value, dict):
        return {key: _with_files(part, moved) for key, part in value.items()}
    return value
