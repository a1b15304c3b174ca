"""Python values as JSON that a person can read, and exactly the same values of it again.

Where JSON holds the contents only, a `RestoredValue` says what stood there. What cannot be rebuilt
alike is refused: each value that is stored is restored once and compared, before anything is
written.
"""

from __future__ import annotations

import base64
import enum
import math
from collections import deque
from collections.abc import Callable
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import TYPE_CHECKING, Any

from espnet3.errors import ClassError, ConfigError
from espnet3.redaction import shown_value
from espnet3.specs.models import Argument, ClassReference, RestoredValue
from espnet3.specs.nested import Kind
from espnet3.specs.plain import MAX_DEPTH, is_omegaconf, no_json, utf8
from espnet3.text import one_line
from espnet3.user_code.equality import alike, fields_of
from espnet3.user_code.omegaconf_values import ConfigReader
from espnet3.user_code.references import refer_to, refer_to_function
from espnet3.user_code.restoring import restored

if TYPE_CHECKING:
    from pydantic import JsonValue

At = tuple[str | int, ...]


def stored(value: Any, where: str) -> Argument:
    """A value as it is persisted.

    Args:
        value: plain values, containers of them, OmegaConf configs, enum members, paths, bytes,
            NumPy scalars, dataclasses and namespaces; functions as the value, or in the last two.
        where: its name, for errors.

    Raises:
        ConfigError: a worker could not rebuild it alike; names the place in it.

    Example:
        >>> argument = stored({"size": (1, 2)}, "config")
        >>> argument.value, argument.restored[0].at, argument.restored[0].kind
        ({'size': [1, 2]}, ['size'], 'tuple')
        >>> restored(argument)
        {'size': (1, 2)}
    """
    return stored_and_early(value, where)[0]


def stored_and_early(value: Any, where: str) -> tuple[Argument, bool]:
    """As `stored`; and whether it holds an interpolation of which only the result is stored."""
    writer = _Writer()
    written = writer.write(_by_name(value), where, (), 0)
    omegaconf = is_omegaconf(value)
    if omegaconf and writer.notes[-1].at == [] and not _says_something(writer.notes[-1]):
        writer.notes.pop()
    argument = Argument(value=written, omegaconf=omegaconf, restored=writer.notes)
    if writer.notes or omegaconf:
        _require_alike(value, argument, where)
    return argument, writer.configs.resolved_early


def _says_something(note: RestoredValue) -> bool:
    return note.kind != "omegaconf" or note.cls is not None or bool(note.flags)


def _require_alike(value: Any, argument: Argument, where: str) -> None:
    """Restore what was stored, as a worker will, and compare.

    Raises:
        ConfigError: another value would come out.
    """
    try:
        same = alike(value, restored(argument), resolved=True)
        problem = "would be another value"
    except Exception as error:  # noqa: BLE001 (classes of the user's, and their constructors)
        same, problem = False, f"is {type(error).__name__}: {one_line(str(error))}"
    if not same:
        raise ConfigError(
            where,
            f"{shown_value(value, where)} cannot be rebuilt identically in a worker "
            f"(it {problem}); put plain values into it and build objects in the provider",
        )


_FUNCTIONS = (FunctionType, BuiltinFunctionType, MethodDescriptorType)


class _ByName:
    """A function that stands where a worker is given it: not deep in data, such as a registry.

    Those are the import's affair.
    """

    def __init__(self, function: Any) -> None:
        self.function = function


def _by_name(value: Any) -> Any:
    return _ByName(value) if isinstance(value, _FUNCTIONS) else value


class _Writer:
    """Writes one value; `notes` are in the order in which they are restored: inner ones first."""

    def __init__(self) -> None:
        self.notes: list[RestoredValue] = []
        self.configs = ConfigReader(self)

    def note(
        self, at: At, kind: Kind, cls: type[Any] | ClassReference | None = None, **more: Any
    ) -> None:
        reference = None if cls is None else self._reference(cls)
        self.notes.append(RestoredValue(at=[*at], kind=kind, cls=reference, **more))

    def write(self, value: Any, where: str, at: At, depth: int) -> JsonValue:
        """A part of the value as JSON.

        Raises:
            ConfigError: it cannot be stored.
        """
        if depth > MAX_DEPTH:  # also what holds itself
            raise ConfigError(one_line(where, 120), f"is nested deeper than {MAX_DEPTH} levels")
        if value is None or type(value) is bool:
            return value
        if is_omegaconf(value):
            return self.configs.write_root(value, where, at, depth)
        write = _WAYS.get(type(value)) or next(
            (way for base, way in _WAYS_BY_BASE if isinstance(value, base)), None
        )
        if write is not None:
            return write(self, value, where, at, depth)
        if any(base.__name__ == "generic" for base in type(value).__mro__[:-1]):  # of NumPy
            return self._scalar(value, where, at)
        fields = fields_of(value)
        if fields is not None:
            named = {name: _by_name(part) for name, part in fields.items()}
            written = self._mapping(named, where, at, depth)
            self._own_class(value, "fields", where, at)
            return written
        raise no_json(value, where)

    def shown(self, value: Any, where: str, depth: int) -> JsonValue:
        """What an interpolation gives, for people; it is resolved again where it is used."""
        return _Writer().write(value, where, (), depth)

    def _text(self, value: str, where: str, at: At, depth: int) -> JsonValue:
        return utf8(value, where)

    def _integer(self, value: int, where: str, at: At, depth: int) -> JsonValue:
        if -(2**63) <= value < 2**64:
            return value
        try:
            text = str(value)
        except ValueError:  # of more than some thousands of digits
            raise ConfigError(where, "is too long an integer; write it as text") from None
        self.note(at, "number")
        return text

    def _float(self, value: float, where: str, at: At, depth: int) -> JsonValue:
        if math.isfinite(value):
            return value
        self.note(at, "number")
        return str(value)

    def _enum(self, value: enum.Enum, where: str, at: At, depth: int) -> JsonValue:
        if value.name not in type(value).__members__:  # a combination of flags
            raise no_json(value, where)
        self._own_class(value, "enum", where, at)
        return value.name

    def _path(self, value: PurePath, where: str, at: At, depth: int) -> JsonValue:
        if type(value).__module__.partition(".")[0] == "pathlib":  # 3.13 defines them in a part
            self.note(at, "path", _named(type(value), "pathlib"))
        else:
            self._own_class(value, "path", where, at)
        return utf8(str(value), where)

    def _bytes(self, value: bytes, where: str, at: At, depth: int) -> JsonValue:
        self.note(at, "bytes")
        return base64.b64encode(value).decode()

    def _list(self, value: Any, where: str, at: At, depth: int) -> JsonValue:
        written = self._parts(value, where, at, depth)
        if type(value) is not list:
            self._own_class(value, "list", where, at)
        return written

    def _tuple(self, value: tuple[Any, ...], where: str, at: At, depth: int) -> JsonValue:
        written = self._parts(value, where, at, depth)
        if type(value) is tuple:
            self.note(at, "tuple")
        else:
            self._own_class(value, "tuple", where, at)
        return written

    def _set(self, value: Any, where: str, at: At, depth: int) -> JsonValue:
        try:
            ordered = sorted(value)  # so that the same set is always the same plan
        except TypeError:
            ordered = sorted(value, key=lambda part: (type(part).__qualname__, repr(part)))
        written = self._parts(ordered, where, at, depth)
        self._own_class(value, "set", where, at)
        return written

    def _dict(self, value: dict[Any, Any], where: str, at: At, depth: int) -> JsonValue:
        written = self._mapping(value, where, at, depth)
        if type(value) is not dict:
            self._own_class(value, "mapping", where, at)
        return written

    def _function(self, value: _ByName, where: str, at: At, depth: int) -> JsonValue:
        try:
            reference = refer_to_function(value.function)
        except ClassError as error:
            raise ConfigError(where, f"is the function {error}") from None
        self.note(at, "function", reference)
        return reference.qualname

    def _subclass(self, value: Any, where: str, at: At, depth: int) -> JsonValue:
        return self._scalar(value, where, at)

    def _scalar(self, value: Any, where: str, at: At) -> JsonValue:
        """A number or text of a class of its own, such as NumPy's."""
        plain = next((base(value) for base in (str, int, float) if isinstance(value, base)), None)
        if plain is None:
            plain = value.item()
        if type(plain) not in (str, int, float, bool):
            raise no_json(value, where)
        written = self.write(plain, where, at, 0)
        self._own_class(value, "scalar", where, at)
        return written

    def _parts(self, parts: Any, where: str, at: At, depth: int) -> list[JsonValue]:
        if _all_plain(parts):
            return list(parts)
        return [
            self.write(part, f"{where}.{i}", (*at, i), depth + 1) for i, part in enumerate(parts)
        ]

    def _mapping(self, value: Any, where: str, at: At, depth: int) -> JsonValue:
        if all(type(key) is str for key in value):
            return {
                utf8(key, where): self.write(part, f"{where}.{key}", (*at, key), depth + 1)
                for key, part in value.items()
            }
        return self.pairs(
            [(key, f"{where}.{key}", part) for key, part in value.items()], at, depth, self.write
        )

    def pairs(
        self, entries: list[tuple[Any, str, Any]], at: At, depth: int, write: Callable[..., Any]
    ) -> JsonValue:
        """A mapping with keys that are no text, as a list of keys and values."""
        pairs: list[JsonValue] = []
        for i, (key, name, part) in enumerate(entries):
            pairs.append(
                [
                    self.write(key, name, (*at, i, 0), depth + 1),
                    write(part, name, (*at, i, 1), depth + 1),
                ]
            )
        self.note(at, "pairs")
        return pairs

    def _own_class(self, value: Any, kind: Kind, where: str, at: At) -> None:
        try:
            self.note(at, kind, type(value))
        except ClassError as error:
            raise ConfigError(where, f"is of the class {error}") from None

    def _reference(self, cls: type[Any] | ClassReference) -> ClassReference:
        return cls if isinstance(cls, ClassReference) else refer_to(cls)


def _named(cls: type[Any], module: str) -> Any:
    return ClassReference(module=module, qualname=cls.__qualname__)


_PLAIN = frozenset({str, bool, type(None)})


def _all_plain(parts: Any) -> bool:
    """Whether a long list is one of short texts and the like; a walk through each takes longer."""
    return (
        set(map(type, parts)) <= _PLAIN
        and "".join(part for part in parts if type(part) is str).isascii()
    )


_WAYS: dict[type[Any], Callable[..., JsonValue]] = {
    str: _Writer._text,
    int: _Writer._integer,
    float: _Writer._float,
    bytes: _Writer._bytes,
    list: _Writer._list,
    tuple: _Writer._tuple,
    set: _Writer._set,
    frozenset: _Writer._set,
    dict: _Writer._dict,
    _ByName: _Writer._function,
}
_WAYS_BY_BASE: list[tuple[type[Any], Callable[..., JsonValue]]] = [
    (enum.Enum, _Writer._enum),  # before what a member may be besides
    (PurePath, _Writer._path),
    (str, _Writer._subclass),
    (int, _Writer._subclass),
    (float, _Writer._subclass),
    (list, _Writer._list),
    (tuple, _Writer._tuple),
    (dict, _Writer._dict),
    (deque, _Writer._list),
]
