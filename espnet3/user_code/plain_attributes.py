"""What an instance holds in plain values, to compare it with one that was made elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any, NamedTuple

from espnet3.checksums import checksum
from espnet3.redaction import shown_value
from espnet3.specs.plain import is_omegaconf
from espnet3.user_code.instances import attributes_of, record_of

_PLAIN = (str, int, float, complex, bytes, bool, type(None))
_MAX_VALUES, _MAX_DEPTH = 10_000, 8


class Held(NamedTuple):
    """One plain value of an instance.

    Attributes:
        checksum: of its type and all that it is.
        shown: for a person; secrets are masked.
    """

    checksum: str
    shown: str


def plain_attributes(instance: Any) -> dict[str, Held]:
    """The plain values below an instance's attributes, by dotted paths.

    Objects are opened where they are of classes written in Python, by their attributes.
    Left out are arrays and the like, sets, what lies deeper than 8 levels or behind 10,000 others,
    and attributes that the instance's own work has changed.

    Args:
        instance: a provider.

    Example:
        >>> class Decoder:
        ...     def __init__(self):
        ...         self.beam = 5
        >>> plain_attributes(Decoder())["beam"].shown
        '5'
    """
    record = record_of(instance)
    left_out = frozenset() if record is None else record.own_work
    walk = _Walk(instance)
    for name, value in attributes_of(instance):
        if name not in left_out and len(walk.found) < _MAX_VALUES:
            walk.enter(name, value)
    return walk.found


def differences(here: Mapping[str, Held], there: Mapping[str, Held]) -> Iterator[tuple[str, str]]:
    """Paths whose values differ, and how, for a person; what one side lacks is left alone."""
    for path, held in here.items():
        other = there.get(path)
        if other is not None and other.checksum != held.checksum:
            yield path, f"is {held.shown} here and {other.shown} in a worker"


def encode_held(held: Mapping[str, Held]) -> str:
    """As text, for another process."""
    return json.dumps(held)


def decode_held(text: str) -> dict[str, Held]:
    """What `encode_held` made a text of."""
    return {path: Held(*parts) for path, parts in json.loads(text).items()}


class _Walk:
    def __init__(self, instance: Any) -> None:
        self.found: dict[str, Held] = {}
        self._within = [instance]

    def enter(self, path: str, value: Any) -> None:
        if len(self._within) > _MAX_DEPTH:
            return
        if type(value) in _PLAIN or isinstance(value, (Enum, PurePath)):
            found = checksum(f"{type(value)} {value!r}".encode(errors="replace"))
            shown = shown_value(value, path)
            self.found[path] = Held(found, shown)
        elif not any(value is each for each in self._within):
            self._within.append(value)
            for key, inner in _inside(value):
                if len(self.found) >= _MAX_VALUES:
                    break
                self.enter(f"{path}{key}", inner)
            self._within.pop()


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value holds, made as it is asked for: most of a large one never is."""
    if is_omegaconf(value):
        from omegaconf import OmegaConf

        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else None
    kind = type(value)
    if kind is dict:
        yield from ((f".{key}", inner) for key, inner in value.items() if isinstance(key, str))
    elif kind in (list, tuple):
        yield from ((f"[{i}]", inner) for i, inner in enumerate(value))
    elif _is_of_users(kind):
        yield from ((f".{name}", inner) for name, inner in attributes_of(value))


def _is_of_users(kind: type[Any]) -> bool:
    """Whether a class is written in Python, with a constructor, and is no class of classes."""
    made = getattr(kind.__init__, "__code__", None)
    return made is not None and not issubclass(kind, type)
