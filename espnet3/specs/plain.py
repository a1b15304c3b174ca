"""Values as plain JSON: one walk over them, and configs, with OmegaConf resolved."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from espnet3.errors import ConfigError
from espnet3.redaction import masked, shown_value
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

MAX_DEPTH = 100  # of lists and mappings; JSON readers give up at about 200


_PLAIN = frozenset({type(None), bool, str, int, float, list, tuple, dict})


class NotJson(ValueError):
    """A part of a value that JSON cannot hold.

    Attributes:
        reason: what is wrong with it: depth, key, kind, number, size, text, or unresolved.
        part: it, or the key.
        way: the keys and positions that lead to it, the innermost first.
    """

    def __init__(self, reason: str, part: Any, *way: str | int) -> None:
        super().__init__(f"{part} is not JSON" if reason == "number" else reason)
        self.reason, self.part, self.way = reason, part, [*way]

    @property
    def place(self) -> str:
        """Where it stands in the value: `.name[0]`."""
        steps = reversed(self.way)
        return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)

    @property
    def kind(self) -> str:
        """The part's class, as a person knows it."""
        cls = type(self.part)
        return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


class JsonWalk:
    """The walk over values that become JSON; a subclass says what else JSON can hold, or cannot.

    Args:
        deepest: how many lists and mappings a part may stand in.
    """

    def __init__(self, deepest: int = MAX_DEPTH) -> None:
        self.deepest = deepest

    def plain(self, value: Any, depth: int = 0) -> JsonValue:
        """What JSON has for a value that stands in `depth` lists and mappings.

        Raises:
            NotJson: it has nothing for it, or for a part of it.

        Example:
            >>> JsonWalk().plain({"beam": 5, "dirs": ("a", "b")})
            {'beam': 5, 'dirs': ['a', 'b']}
        """
        if depth > self.deepest:  # also what holds itself
            raise NotJson("depth", value)
        while (kind := type(value)) not in _PLAIN:
            value = self.plainer(value)
        if kind is dict:
            self.check_keys(value)
            mapping: dict[str, JsonValue] = {}
            key = ""
            try:
                for key, part in value.items():
                    mapping[key] = self.plain(part, depth + 1)
            except NotJson as error:
                error.way.append(key)
                raise
            return mapping
        if kind is list or kind is tuple:
            parts: list[JsonValue] = []
            try:
                for part in value:
                    parts.append(self.plain(part, depth + 1))
            except NotJson as error:
                error.way.append(len(parts))
                raise
            return parts
        if kind is float and not math.isfinite(value):
            raise NotJson("number", value)
        if kind is str or kind is int:
            self.check_leaf(value)
        return value  # type: ignore[no-any-return]

    def plainer(self, value: Any) -> Any:
        """What to go on with in place of a value that is not plain; NotJson if there is nothing."""
        bases: tuple[type[Any], ...] = (int, float, list, tuple)
        for base in bases:
            if isinstance(value, base):
                return base(value)
        if isinstance(value, str | Mapping):
            return str.__str__(value) if isinstance(value, str) else dict(value)
        raise NotJson("kind", value)

    def check_keys(self, mapping: dict[Any, Any]) -> None:
        """Refuse a key that is not text."""
        for key in mapping:
            if not isinstance(key, str):
                raise NotJson("key", key)

    def check_leaf(self, value: str | int) -> None:
        """Refuse text or an integer that the encoder would, which does not say where it stands."""


def numpy_plain(value: Any) -> Any:
    """What JSON has for a scalar or array of NumPy's.

    Raises:
        NotJson: nothing, or it is not NumPy's.
    """
    if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        plain = value.tolist()
        if type(plain) is not type(value):
            return plain
    raise NotJson("kind", value)


_ANY_DEPTH = JsonWalk(sys.maxsize)  # readers have a limit of their own


def finite(value: JsonValue) -> JsonValue:
    """The value; JSON would hold its NaNs and infinities as null, without a word."""
    _ANY_DEPTH.plain(value)
    return value


def plain_config(config: Any, where: str) -> Any:
    """Resolve an OmegaConf config to plain Python values; leave anything else as it is.

    Raises:
        ConfigError: it has a missing value or an interpolation that cannot be resolved.
    """
    try:
        return _resolved(config) if is_omegaconf(config) else config
    except NotJson as error:
        raise _explained(error, where) from None


def _resolved(config: Any) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = one_line(str(error).partition("\n")[0])
        raise NotJson("unresolved", reason, *([key] if key else [])) from None


def is_omegaconf(value: Any) -> bool:
    """Whether a value is an OmegaConf container, without importing OmegaConf."""
    return type(value).__module__.partition(".")[0] == "omegaconf"


class _ConfigWalk(JsonWalk):
    """Resolves OmegaConf's containers, and writes paths as text."""

    def plainer(self, value: Any) -> Any:
        if is_omegaconf(value):
            return _resolved(value)
        return fspath(value) if isinstance(value, PathLike) else super().plainer(value)

    def check_keys(self, mapping: dict[Any, Any]) -> None:
        super().check_keys(mapping)
        for key in mapping:
            self.check_leaf(key)

    def check_leaf(self, value: str | int) -> None:
        if isinstance(value, int):
            if not -(2**63) <= value < 2**64:
                raise NotJson("size", value)
        elif not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise NotJson("text", value) from None


_CONFIG = _ConfigWalk()


def plain_json(value: Any, where: str) -> JsonValue:
    """A config value as plain JSON, resolved.

    Paths become text, tuples become lists.

    Args:
        value: a config or a part of it.
        where: its name, for errors.

    Raises:
        ConfigError: it cannot be resolved, or holds what is not JSON; names the key.

    Example:
        >>> plain_json({"beam": 5, "dirs": ("a", "b")}, "config")
        {'beam': 5, 'dirs': ['a', 'b']}
    """
    try:
        return _CONFIG.plain(value)
    except NotJson as error:
        raise _explained(error, where) from None


def _explained(error: NotJson, where: str) -> ConfigError:
    part = error.part
    where = ".".join([where, *map(str, reversed(error.way))])
    if error.reason == "depth":
        return ConfigError(one_line(where, 120), f"is nested deeper than {MAX_DEPTH} levels")
    if error.reason == "key":
        return ConfigError(f"{where}.{part}", f"the key {part!r} is not a string")
    if error.reason == "text":
        shown = shown_value(part, where)
        return ConfigError(where, f"{shown} cannot be written as UTF-8")
    if error.reason == "kind":
        return no_json(part, where)
    if error.reason == "unresolved":
        return ConfigError(where, f"cannot be resolved: {part}")
    problem = "does not fit into 64 bits" if error.reason == "size" else "is not JSON"
    return ConfigError(where, f"{masked(part, where)} {problem}; write it as text")


def no_json(value: Any, where: str) -> ConfigError:
    """The error that a value in a config cannot be stored."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    shown = shown_value(value, where)
    return ConfigError(
        where,
        f"{shown} of type {kind} is not JSON; put plain values into the config and build "
        "objects in the provider",
    )


def utf8(text: str, where: str) -> str:
    """The text, which JSON can hold.

    Raises:
        ConfigError: it cannot; Python holds bytes of foreign file names as lone surrogates.
    """
    try:
        _CONFIG.check_leaf(text)
    except NotJson as error:
        raise _explained(error, where) from None
    return text
