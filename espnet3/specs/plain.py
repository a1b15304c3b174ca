"""Configs as plain JSON values, with OmegaConf resolved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from espnet3.errors import ConfigError
from espnet3.redaction import masked
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

MAX_DEPTH = 100  # of lists and mappings; JSON readers give up at about 200


def finite(value: JsonValue) -> JsonValue:
    """The value; JSON would hold its NaNs and infinities as null, without a word."""
    parts: list[JsonValue] = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError(f"{part} is not JSON")
        if isinstance(part, dict):
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return value


def plain_config(config: Any, where: str) -> Any:
    """Resolve an OmegaConf config to plain Python values; leave anything else as it is.

    Raises:
        ConfigError: it has a missing value or an interpolation that cannot be resolved.
    """
    if not is_omegaconf(config):
        return config
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        reason = one_line(str(error).partition("\n")[0])
        name = f"{where}.{key}" if key else where
        raise ConfigError(name, f"cannot be resolved: {reason}") from None


def is_omegaconf(value: Any) -> bool:
    """Whether a value is an OmegaConf container, without importing OmegaConf."""
    return type(value).__module__.partition(".")[0] == "omegaconf"


def plain_json(value: Any, where: str, depth: int = 0) -> JsonValue:
    """A config value as plain JSON, resolved.

    Paths become text, tuples become lists.

    Args:
        value: a config or a part of it.
        where: its name, for errors.
        depth: how many lists and mappings it stands in.

    Raises:
        ConfigError: it cannot be resolved, or holds what is not JSON; names the key.

    Example:
        >>> plain_json({"beam": 5, "dirs": ("a", "b")}, "config")
        {'beam': 5, 'dirs': ['a', 'b']}
    """
    if depth > MAX_DEPTH:  # also what holds itself
        raise ConfigError(one_line(where, 120), f"is nested deeper than {MAX_DEPTH} levels")
    value = plain_config(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return utf8(value, where)
    if isinstance(value, int):
        if -(2**63) <= value < 2**64:
            return int(value)
        raise ConfigError(
            where, f"{masked(value, where)} does not fit into 64 bits; write it as text"
        )
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        raise ConfigError(where, f"{masked(value, where)} is not JSON; write it as text")
    if isinstance(value, PathLike):
        return plain_json(fspath(value), where, depth)
    if isinstance(value, list | tuple):
        return [plain_json(part, f"{where}.{i}", depth + 1) for i, part in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}.{key}", f"the key {key!r} is not a string")
            utf8(key, where)
        return {key: plain_json(part, f"{where}.{key}", depth + 1) for key, part in value.items()}
    raise no_json(value, where)


def no_json(value: Any, where: str) -> ConfigError:
    """The error that a value in a config cannot be stored."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    shown = one_line(repr(masked(value, where)), 60)
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
        text.encode()
    except UnicodeEncodeError:
        shown = one_line(repr(masked(text, where)), 60)
        raise ConfigError(where, f"{shown} cannot be written as UTF-8") from None
    return text
