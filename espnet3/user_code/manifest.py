"""`manifest.json`: of which plan the folders of shards beside it are the parts; as in ESPnet3."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from espnet3.checksums import checksum
from espnet3.errors import OutputError, UsageError
from espnet3.specs.plain import is_omegaconf
from espnet3.storage.permissions import make_folders, regular, replacing
from espnet3.text import one_line
from espnet3.user_code.instances import changed_attributes, record_of
from espnet3.user_code.parallel_section import PARALLEL, without_parallel
from espnet3.user_code.values import stored
from espnet3.user_code.writers import is_folder_name

MANIFEST = "manifest.json"


class ManifestShard(BaseModel):  # not of specs: workers have those models without pydantic
    """A shard: its number, and what `forward` is called with."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    shard_id: Annotated[int, Field(ge=0)]
    items: list[JsonValue]


class Manifest(BaseModel):
    """What `manifest.json` holds; keys that are not known are passed over.

    Attributes:
        version: of ESPnet3's format.
        output_dir: as the runner was given it.
        shard_subdir: likewise.
        shards: the plan.
        fingerprint: what runner and provider were made of: a name and a checksum for each part;
            empty where ESPnet3 itself wrote the file.
        run: the run directory, where a run writes the shards; None in local and synchronous mode.
        merged: which receipts of that run were merged last, all of them; None where none were.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    version: Literal[1] = 1
    output_dir: str
    shard_subdir: str = ""
    shards: list[ManifestShard]
    fingerprint: dict[str, str] = {}
    run: str | None = None
    merged: str | None = None


def output_root(output_dir: str | os.PathLike[str], shard_subdir: str) -> Path:
    """The folder that holds the manifest and the shards' folders.

    >>> output_root("decode", "test_clean")
    PosixPath('decode/test_clean')
    """
    return Path(output_dir) / shard_subdir


def shard_folders(root: str | os.PathLike[str]) -> list[str]:
    """The names of the shards' folders, and links to such, that are in an output folder.

    Raises:
        OutputError: it cannot be listed.
    """
    try:
        names = os.listdir(root)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise OutputError(os.fspath(root), f"cannot be listed ({error.strerror})") from None
    return [*filter(is_folder_name, names)]


def read_manifest(root: Path) -> Manifest | None:
    """The manifest in a folder; None where there is none.

    Raises:
        OutputError: it cannot be read, or is no such manifest.
    """
    path = root / MANIFEST
    try:
        with open(path, "rb", opener=regular) as file:
            return Manifest.model_validate_json(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise OutputError(os.fspath(path), f"cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        where = f"field {one_line(field)}: " if field else ""
        raise OutputError(
            os.fspath(path),
            f"is not the manifest of a runner: {where}{one_line(first['msg'], 200)}; choose "
            "another output_dir, or remove the folder",
        ) from None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write the manifest, in place of one that may be there; a reader sees either as a whole.

    Raises:
        OutputError: it cannot be written.
    """
    fields = {name: getattr(manifest, name) for name in ("version", "output_dir", "shard_subdir")}
    fields["shards"] = [{"shard_id": s.shard_id, "items": s.items} for s in manifest.shards]
    fields["fingerprint"] = manifest.fingerprint
    fields |= manifest.model_dump(include={"run", "merged"}, exclude_none=True)
    path = os.fspath(root / MANIFEST)
    try:
        make_folders(os.fspath(root))
        with replacing(path) as file:
            file.write(orjson.dumps(fields, option=orjson.OPT_INDENT_2))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(path, f"cannot be written ({error.strerror})") from None


def require_same(root: Path, there: Manifest, here: Manifest) -> None:
    """Refuse to go on with what was written by another plan, or in another way.

    Args:
        root: the folder.
        there: its manifest.
        here: what is to be written.

    Raises:
        OutputError: names what differs.
    """
    if there.run != here.run:
        where = (
            "was written in local or synchronous mode; go on with it there"
            if there.run is None
            else f"belongs to the run in {there.run}; collect or resume that"
        )
        raise OutputError(os.fspath(root), f"{where}, or choose another output_dir")
    found = difference(there, here)
    if found is not None:
        raise OutputError(
            os.fspath(root),
            f"holds shards of another plan: {found}; choose another output_dir, or write all anew "
            "with resume=False",
        )


def difference(there: Manifest, here: Manifest) -> str | None:
    """In which way the plans of two manifests differ, in words; None where they are the same."""
    old, new = there.fingerprint, here.fingerprint
    for name in {**new, **old} if old else ():
        if old.get(name) != new.get(name):
            return f"{one_line(name, 120)} is another one"
    counts = [sum(len(shard.items) for shard in each.shards) for each in (there, here)]
    if counts[0] != counts[1]:
        return f"the number of items is {counts[0]} there and {counts[1]} here"
    if len(there.shards) != len(here.shards):
        return (
            f"the number of shards is {len(there.shards)} there and {len(here.shards)} here "
            "(n_shards, else n_workers)"
        )
    for one, other in zip(there.shards, here.shards, strict=True):
        if orjson.dumps(one.items) != orjson.dumps(other.items):
            return f"the items of shard {other.shard_id} differ"
    return None


def made_from(runner: Any) -> dict[str, str]:
    """The fingerprint of a runner: of which class it is, and what its provider was made of.

    Values that JSON cannot hold count by their class. Where to compute does not count.
    """
    provider = runner.provider
    made = {
        "runner": _class_name(type(runner)),
        "batch_size": str(runner.batch_size),
        "provider": _class_name(type(provider)),
    }
    for name, value in _arguments(provider):
        made.update(_leaves(value, f"provider.{name}", is_whole=True))
    return made


def _class_name(cls: type[Any]) -> str:
    """A class by the name that it has in any process: a script by its file's."""
    module = cls.__module__
    if module == "__main__":
        import __main__

        module = os.path.basename(getattr(__main__, "__file__", None) or module)
    return f"{module}:{cls.__qualname__}"


def _arguments(provider: Any) -> Iterator[tuple[str, Any]]:
    """What a provider was constructed with, and what was changed in it since."""
    if record_of(provider) is None:
        return
    args, kwargs = provider.constructor_arguments
    try:
        yield from inspect.signature(type(provider)).bind(*args, **kwargs).arguments.items()
    except (TypeError, ValueError):
        yield from (("config", args), ("keywords", kwargs))
    yield from changed_attributes(provider)[0].items()


def _leaves(value: Any, name: str, *, is_whole: bool = False) -> dict[str, str]:
    """The parts of a value that hold no mapping, by their dotted names, as checksums."""
    try:
        argument = stored(value, name)
    except UsageError:  # what a worker could not be given; in local mode it need not
        if is_omegaconf(value):
            from omegaconf import OmegaConf

            value = OmegaConf.to_container(value)
        if not isinstance(value, Mapping):
            return {name: f"class {_class_name(type(value))}"}
        rest = without_parallel(value) if is_whole else value
        parts = (_leaves(part, f"{name}.{key}") for key, part in rest.items())
        return {key: found for part in parts for key, found in part.items()}
    plain = without_parallel(argument.value) if is_whole else argument.value
    found = {key: _short(part) for key, part in _flat(plain, name)}
    for note in argument.restored:  # what it was, where JSON holds the contents only
        if plain is not argument.value and PARALLEL in note.at[:1]:
            continue
        key = ".".join((name, *map(str, note.at)))
        found[key] = _short([found.get(key), note.model_dump(mode="json")])
    return found


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        yield name, value
        return
    for key, part in value.items():
        yield from _flat(part, f"{name}.{key}")


def _short(value: Any) -> str:
    return checksum(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))[: len("sha256:") + 16]
