"""Whether a value is still what it was: plain data by their contents, all else by identity."""

from __future__ import annotations

import enum
from collections import deque
from types import SimpleNamespace
from typing import Any

from espnet3.specs.plain import is_omegaconf

_EXACT = frozenset({str, bool, bytes, int, type(None)})
_ATOMS = _EXACT | {float}
_CONTAINERS = (dict, list, tuple, set, frozenset)


def copied(value: Any) -> Any:
    """A copy of plain data, which later changes of it do not reach.

    Dicts, lists, tuples, sets, OmegaConf configs, dataclasses and namespaces are copied, all other
    objects are in the copy themselves.

    Example:
        >>> config = {"beam": [1, 2]}
        >>> before = copied(config)
        >>> config["beam"].append(3)
        >>> before
        {'beam': [1, 2]}
    """
    return _Copier().copy(value)


class _Copier:
    def __init__(self) -> None:
        self.done: dict[int, Any] = {}  # what stands at two places, or holds itself

    def copy(self, value: Any) -> Any:
        kind = type(value)
        if kind in _ATOMS:
            return value
        if id(value) in self.done:
            return self.done[id(value)]
        if isinstance(value, _CONTAINERS) and kind in _CONTAINERS:
            return self._container(value)
        if is_omegaconf(value):
            return self._config(value)
        fields = fields_of(value)
        return value if fields is None else self._with_fields(value, fields)

    def _container(self, value: Any) -> Any:
        kind = type(value)
        if kind in (set, frozenset):
            return kind(value)
        if kind is tuple:
            return tuple(map(self.copy, value))
        made: Any = kind()
        self.done[id(value)] = made
        if kind is list:
            plain = set(map(type, value)) <= _ATOMS
            made.extend(value if plain else map(self.copy, value))
        elif set(map(type, value.values())) <= _ATOMS:
            made.update(value)
        else:
            made.update((key, self.copy(part)) for key, part in value.items())
        return made

    def _config(self, value: Any) -> Any:
        import copy

        try:
            made = copy.deepcopy(value)
        except Exception:  # noqa: BLE001 (it may hold objects of any class)
            made = value
        self.done[id(value)] = made
        return made

    def _with_fields(self, value: Any, fields: dict[str, Any]) -> Any:
        import copy

        try:
            made = copy.copy(value)
            for name, part in fields.items():
                object.__setattr__(made, name, self.copy(part))
        except Exception:  # noqa: BLE001 (the user's class: it is what it is)
            return value
        return made


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or namespace, by which it can be made again; None for all else."""
    kind = type(value)
    if isinstance(value, SimpleNamespace) or (
        kind.__module__ == "argparse" and kind.__qualname__ == "Namespace"
    ):
        return dict(vars(value))
    declared = getattr(kind, "__dataclass_fields__", None)
    if declared is None or "_field_type" not in dir(next(iter(declared.values()), None)):
        return None
    try:
        return {
            name: getattr(value, name)
            for name, field in declared.items()
            if field.init and field._field_type.name == "_FIELD"
        }
    except AttributeError:
        return None


def alike(one: Any, other: Any, *, resolved: bool = False) -> bool:
    """Whether two values are the same: the same types, and equal all the way down.

    Args:
        one: a value, `copied` before or rebuilt.
        other: the value now.
        resolved: compare what interpolations of OmegaConf give, not how they are written.

    Example:
        >>> alike({"beam": 1}, {"beam": 1}), alike({"beam": 1}, {"beam": True}), alike(0.0, -0.0)
        (True, False, False)
    """
    return _Comparison(resolved).same(one, other)


class _Comparison:
    def __init__(self, resolved: bool) -> None:
        self.resolved = resolved
        self.under_way: set[tuple[int, int]] = set()

    def same(self, one: Any, other: Any) -> bool:
        kind = type(one)
        if kind is not type(other):
            return False
        if kind in _EXACT:
            return bool(one == other)
        if isinstance(one, float):  # 0.0 == -0.0, and NaN is not itself
            return float.hex(one) == float.hex(other) and self._same_own(one, other)
        if one is other:
            return True
        return self._once(one, other, self._same_parts)

    def _once(self, one: Any, other: Any, compare: Any) -> bool:
        pair = (id(one), id(other))
        if pair in self.under_way:  # it holds itself
            return True
        self.under_way.add(pair)
        try:
            return bool(compare(one, other))
        finally:
            self.under_way.discard(pair)

    def _same_parts(self, one: Any, other: Any) -> bool:
        if is_omegaconf(one):
            from espnet3.user_code.omegaconf_nodes import same_configs

            return same_configs(one, other, self.same, resolved=self.resolved)
        if isinstance(one, enum.Enum | type):
            return False  # it would be the same object
        if isinstance(one, list | tuple):
            return self._same_sequence(one, other) and self._same_own(one, other)
        if isinstance(one, deque):
            return one.maxlen == other.maxlen and self._same_sequence([*one], [*other])
        if isinstance(one, dict):
            return (
                self._same_sequence([*one], [*other])
                and self._same_sequence([*one.values()], [*other.values()])
                and self._same_own(one, other)
            )
        if isinstance(one, set | frozenset):
            return sorted(map(_typed, one)) == sorted(map(_typed, other))
        if isinstance(one, str | int):
            return bool(one == other) and self._same_own(one, other)
        from pathlib import PurePath  # here, since most workers have no use for it

        if isinstance(one, PurePath):
            return bool(one == other)
        if type(one).__module__ == "numpy":
            return one.dtype == other.dtype and bool(one.tobytes() == other.tobytes())
        fields = fields_of(one)
        return fields is not None and self.same(fields, fields_of(other))

    def _same_sequence(self, one: Any, other: Any) -> bool:
        if len(one) != len(other):
            return False
        if set(map(type, one)) | set(map(type, other)) <= {str}:
            return all(a == b for a, b in zip(one, other, strict=True))
        return all(map(self.same, one, other))

    def _same_own(self, one: Any, other: Any) -> bool:
        """What instances of subclasses of built-in classes hold besides."""
        return self.same(getattr(one, "__dict__", None), getattr(other, "__dict__", None))


def _typed(part: Any) -> tuple[str, str]:
    return type(part).__qualname__, repr(part)
