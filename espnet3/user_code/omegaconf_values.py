"""OmegaConf containers as JSON: what stands in them, and what belongs to them besides."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, Protocol

from espnet3.errors import ClassError, ConfigError
from espnet3.specs.plain import MAX_DEPTH, is_omegaconf
from espnet3.text import one_line
from espnet3.user_code.equality import alike
from espnet3.user_code.omegaconf_nodes import (
    FLAGS,
    is_mapping,
    looked_up,
    node_of,
    nodes,
    own_flags,
    structure,
)

if TYPE_CHECKING:
    from pydantic import JsonValue

MISSING = "???"
# Resolvers whose results depend on nothing but the config, and that every process has.
_OWN_RESOLVERS = {"oc.create", "oc.decode", "oc.deprecated", "oc.dict.keys", "oc.dict.values"}
_OWN_RESOLVERS.add("oc.select")
_CALLED = re.compile(r"\$\{\s*([^\s:{}$\[\]]+)\s*:")


class Writer(Protocol):
    """What writes the values in a container."""

    def note(self, at: Any, kind: Any, cls: Any = None, **more: Any) -> None: ...
    def write(self, value: Any, where: str, at: Any, depth: int) -> JsonValue: ...
    def shown(self, value: Any, where: str, depth: int) -> JsonValue: ...
    def pairs(self, entries: Any, at: Any, depth: int, write: Any) -> JsonValue: ...


class ConfigReader:
    """Reads OmegaConf containers for a writer.

    An interpolation is stored with its result, and stays one where it means the same in a copy of
    the container alone; what asks the environment or the user's resolvers is settled here, where
    local mode would ask (`resolved_early`). One that cannot be resolved, or a missing value
    (`???`), is an error when it is used, as in local mode, and not before.
    """

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.resolved_early = False
        self._alone: Any = None  # the outermost container without its parent, while it is written
        self._flags: dict[str, bool] = {}

    def write_root(self, config: Any, where: str, at: tuple[Any, ...], depth: int) -> JsonValue:
        """Write a container that stands in no other one.

        Raises:
            ConfigError: a value in it cannot be stored.
        """
        if self._alone is not None:  # what an interpolation gave
            return self._container(config, None, where, at, depth)
        if not hasattr(config, "_metadata") or not hasattr(config, "_get_node"):
            raise ConfigError(where, f"is a {type(config).__name__} without a container around it")
        if config._is_none() or config._is_missing() or config._is_interpolation():
            raise ConfigError(where, f"is a {type(config).__name__} of {config._value()!r}")
        self._alone = copy.deepcopy(config)
        self._alone._set_parent(None)
        try:
            written = self._container(config, self._alone, where, at, depth)
        finally:
            self._alone = None
        flags = {flag: True for flag in FLAGS if config._get_flag(flag)}
        self._note(config, flags, where, at)
        return written

    def _note(self, config: Any, flags: dict[str, bool], where: str, at: tuple[Any, ...]) -> None:
        try:
            self.writer.note(at, "omegaconf", structure(config), flags=flags)
        except ClassError as error:
            raise ConfigError(where, f"is of the class {error}") from None

    def _container(
        self, config: Any, alone: Any, where: str, at: tuple[Any, ...], depth: int
    ) -> JsonValue:
        if depth > MAX_DEPTH:
            raise ConfigError(one_line(where, 120), f"is nested deeper than {MAX_DEPTH} levels")

        def write(key: Any, name: str, place: tuple[Any, ...], deeper: int) -> JsonValue:
            return self._node(config, alone, key, name, place, deeper)

        keys = [key for key, _ in nodes(config)]
        if not is_mapping(config):
            parts: list[JsonValue] = [write(i, f"{where}.{i}", (*at, i), depth + 1) for i in keys]
            if type(config).__name__ == "TupleConfig":
                self.writer.note(at, "tuple")
            return parts
        if all(type(key) is str for key in keys):
            return {key: write(key, f"{where}.{key}", (*at, key), depth + 1) for key in keys}
        return self.writer.pairs([(key, f"{where}.{key}", key) for key in keys], at, depth, write)

    def _node(
        self, config: Any, alone: Any, key: Any, where: str, at: tuple[Any, ...], depth: int
    ) -> JsonValue:
        node = node_of(config, key)
        if node is None or node._is_none():
            return None
        if node._is_missing():
            return MISSING
        if node._is_interpolation():
            return self._interpolation(config, alone, key, where, at, depth)
        if not is_omegaconf(node) or not hasattr(node, "_get_node"):
            return self.writer.write(node._value(), where, at, depth)
        inner = None if alone is None else node_of(alone, key)
        written = self._container(node, inner, where, at, depth)
        flags = own_flags(node)
        if flags or structure(node) is not None:
            self._note(node, flags, where, at)
        return written

    def _interpolation(
        self, config: Any, alone: Any, key: Any, where: str, at: tuple[Any, ...], depth: int
    ) -> JsonValue:
        text = str(node_of(config, key)._value())
        found, value = looked_up(config, key)
        if not found:
            self.writer.note(at, "interpolation", text=text)
            return text
        if alone is not None and set(_CALLED.findall(text)) <= _OWN_RESOLVERS:
            there, same = looked_up(alone, key)
            if there and alike(value, same, resolved=True):
                self.writer.note(at, "interpolation", text=text)
                return self.writer.shown(value, where, depth)
        self.resolved_early = True
        return self.writer.write(value, where, at, depth)
