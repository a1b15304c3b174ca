"""What pydantic made of the persisted models, kept for workers as Python keeps bytecode.

More than half of a worker's start would go into importing pydantic and building the models. What
validates and serializes is pydantic_core, by a schema that pydantic makes of each model. A worker
that has to make them keeps these schemas in `__pycache__`, where and when bytecode is kept too. The
next worker takes them from there, and needs no pydantic. All other processes use pydantic itself.
"""

from __future__ import annotations

import binascii
import contextlib
import functools
import importlib.util
import os
import pickle
import sys
from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import Any, Self

import orjson
from pydantic_core._pydantic_core import SchemaSerializer, SchemaValidator, __version__

from espnet3.startup import extension, stand_in

_SOURCES = (
    "startup/kept_schemas",
    *(
        f"specs/{name}"
        for name in (
            "base",
            "claims",
            "items",
            "models",
            "nested",
            "plain",
            "sources",
            "submissions",
        )
    ),
)
_schemas: dict[str, bytes] = {}
_made_of: list[Any] = []  # what `_key` said before the models were imported


def load() -> None:
    """Use the schemas that a worker kept, unless pydantic or the models have changed since.

    To be called before anything imports the models.
    """
    if "pydantic" in sys.modules:
        return
    with contextlib.suppress(Exception):  # whatever is wrong with the file: pydantic does it
        _made_of[:] = _key()
        with open(_file(), "rb") as file:
            checksum, kept = file.read(4), file.read()
        if checksum != _checksum(kept):
            return
        key, schemas = pickle.loads(kept)  # noqa: S301 (as trusted as the bytecode beside it)
        if key == _made_of:
            _schemas.update(schemas)


@contextlib.contextmanager
def in_place_of_pydantic() -> Iterator[None]:
    """While the models are imported: kept schemas, where there are some, stand in for pydantic.

    Nobody else sees the stand-in. To be called while there is one thread.

    Example:
        >>> load()
        >>> with in_place_of_pydantic():
        ...     from espnet3.specs import models
    """
    if not _schemas:
        yield
        return
    with stand_in.in_place(_pydantic()):
        yield


def _pydantic() -> ModuleType:
    """What models are written with. The kept schemas hold what it is told already."""
    module = ModuleType("pydantic")
    module.__dict__.update(
        AfterValidator=lambda function: None,
        AwareDatetime=datetime,
        BaseModel=CompiledModel,
        ConfigDict=dict,
        Field=lambda **limits: None,
        JsonValue=Any,
        model_validator=lambda *, mode: lambda method: method,  # they call it by its name
    )
    return module


def is_kept() -> bool:
    """Whether schemas are kept where the next worker looks for them."""
    return os.path.exists(_file())


def is_loaded() -> bool:
    """Whether the models of this process are made of kept schemas, without pydantic."""
    return bool(_schemas)


def keep(base: type[Any]) -> None:
    """Keep the schemas of all models that derive from a base, for later workers.

    Nothing is kept where `load` did not look at the models before they were imported: they may
    have been edited since.
    """
    if is_loaded() or sys.dont_write_bytecode or not _made_of:
        return
    with contextlib.suppress(Exception):  # the next worker needs longer, that is all
        schemas = {
            model.__qualname__: pickle.dumps(_bare(model.__pydantic_core_schema__))
            for model in _below(base)
        }
        for schema in schemas.values():
            SchemaValidator(_unpickled(schema))
            SchemaSerializer(_unpickled(schema))
        kept = pickle.dumps((_made_of, schemas))
        temporary = f"{_file()}.{os.urandom(6).hex()}"
        try:
            with open(temporary, "xb", opener=_as_the_source) as file:
                file.write(_checksum(kept) + kept)
            os.replace(temporary, _file())
        except OSError:
            os.unlink(temporary)


def _checksum(kept: bytes) -> bytes:
    return binascii.crc32(kept).to_bytes(4, "big")


def _as_the_source(path: str, flags: int) -> int:
    """Opens a file that may be written by those who may write this source, as bytecode is."""
    return os.open(path, flags, os.stat(__file__).st_mode & 0o666)


def _file() -> str:
    return importlib.util.cache_from_source(__file__).removesuffix("pyc") + "schemas"


def _key() -> list[Any]:
    """What the schemas were made of: versions, and sizes and times of files, as for bytecode."""
    here = os.path.dirname(os.path.dirname(__file__))
    core = os.path.dirname(str(sys.modules[extension.NAME].__file__))
    files = [os.path.join(core, os.pardir, "pydantic", "version.py")]
    files += [os.path.join(here, f"{name}.py") for name in _SOURCES]
    states = [(state.st_size, state.st_mtime_ns) for state in map(os.stat, files)]
    return [__version__, *states]


def _below(base: type[Any]) -> list[type[Any]]:
    return [model for child in base.__subclasses__() for model in (child, *_below(child))]


def _bare(schema: Any) -> Any:
    """A core schema without what would need pydantic."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_bare, schema))
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "json-or-python":  # a JsonValue; workers only read them
        schema = {"ref": schema.get("ref"), **schema["json_schema"]}
    return {key: _bare(part) for key, part in schema.items() if key != "metadata"}


class CompiledModel:
    """Stands in for the pydantic models' base, with the part of its interface that workers use.

    Workers cannot submit; they may read other runs.
    """

    __slots__ = (
        "__dict__",
        "__pydantic_extra__",
        "__pydantic_fields_set__",
        "__pydantic_private__",
    )
    __pydantic_fields_set__: set[str]

    def __init__(self, /, **fields: Any) -> None:
        _validator(type(self).__qualname__).validate_python(fields, self_instance=self)

    @classmethod
    def model_validate(cls, value: Any) -> Self:
        found: Self = _validator(cls.__qualname__).validate_python(value)
        return found

    @classmethod
    def model_validate_json(cls, data: bytes) -> Self:
        found: Self = _validator(cls.__qualname__).validate_json(data)
        return found

    @property
    def model_fields_set(self) -> set[str]:
        return self.__pydantic_fields_set__

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        made = type(self).__new__(type(self))
        made.__setstate__({**self.__getstate__(), "__dict__": {**self.__dict__, **update}})
        return made

    def model_dump(self) -> Any:
        return _serializer(type(self).__qualname__).to_python(self)

    def model_dump_json(self) -> str:
        # pydantic's serializer would load the package, pathlib, decimal and more when it is used.
        try:
            return orjson.dumps(self, _fields, orjson.OPT_UTC_Z).decode()
        except TypeError:  # for example an integer of more than 64 bits, which pydantic can write
            return _serializer(type(self).__qualname__).to_json(self).decode()

    def __getstate__(self) -> dict[str, Any]:
        """As pydantic does: what one process pickles, another reads, with pydantic or without."""
        return {name: getattr(self, name) for name in CompiledModel.__slots__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in CompiledModel.__slots__:
            setattr(self, name, state[name])

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({fields})"


def _fields(part: Any) -> dict[str, Any]:
    """What orjson writes of a part: its fields, which validation has put in their order."""
    if isinstance(part, CompiledModel):
        return part.__dict__
    raise TypeError


@functools.cache
def _validator(model: str) -> SchemaValidator:
    return SchemaValidator(_unpickled(_schemas[model]))


@functools.cache
def _serializer(model: str) -> SchemaSerializer:
    return SchemaSerializer(_unpickled(_schemas[model]))


def _unpickled(schema: bytes) -> Any:
    return pickle.loads(schema)  # noqa: S301 (see `load`)
