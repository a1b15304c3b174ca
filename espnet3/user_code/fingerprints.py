"""What a value is at one moment, to be compared later: a checksum, never a copy.

One walk in C (`pickle`, without its memory of what it met) checksums plain data. What is of a class
of its own is known by its identity, with what it holds in public.
"""

from __future__ import annotations

import collections
import enum
import functools
import pickle
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from espnet3.checksums import Checksum
from espnet3.specs.plain import is_omegaconf
from espnet3.user_code.equality import fields_of

_SORTED = 10_000  # parts of a value that are few enough to walk in Python, which sorts sets
_MOST = 10_000  # public attributes that are looked at
_OBJECTS = 20_000  # objects of classes in one value; with more, it is known by its identity
_BYTES = 2**27  # of plain data; with more, too
_ARRAYS = 2**26  # bytes of arrays that are read in full
_SAMPLE = 1_000  # elements of each further one
_INSIDE = 3  # objects within objects that are looked into
_CLOSED = (
    ModuleType, FunctionType, BuiltinFunctionType, MethodType, type, enum.Enum,
)  # fmt: skip
_SCALARS: tuple[tuple[type[Any], Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (bytes, lambda value: bytes.__getitem__(value, slice(None))),
)
_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque)


class Fingerprint:
    """What a value was.

    Attributes:
        kind: its type.
    """

    __slots__ = ("_checksum", "_objects", "_opened", "kind")

    def __init__(self, kind: type[Any], checksum: bytes, objects: list[Any], opened: bool) -> None:
        self.kind, self._checksum, self._objects, self._opened = kind, checksum, objects, opened

    def same(self, value: Any, *, within: Any = None) -> bool:
        """Whether a value has this fingerprint."""
        if type(value) is not self.kind:
            return False
        return self == fingerprint(value, opened=self._opened, within=within)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Fingerprint)
            and (self.kind, self._checksum) == (other.kind, other._checksum)
            and len(self._objects) == len(other._objects)
            and all(a is b for a, b in zip(self._objects, other._objects, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]


def fingerprint(value: Any, *, opened: bool = True, within: Any = None) -> Fingerprint:
    """The fingerprint of a value.

    Args:
        value: anything. What holds more than can be looked at in a moment (20,000 objects, 128 MB
            of plain data) is known by its identity and length, and of arrays beyond 64 MB a sample
            is read.
        opened: look at the public attributes of objects and into arrays, too.
        within: what holds it, which is looked at elsewhere.

    Example:
        >>> config = {"beam": [1, 2]}
        >>> before = fingerprint(config)
        >>> before.same({"beam": [1, 2]})
        True
        >>> config["beam"].append(3)
        >>> before.same(config)
        False
    """
    for pickler in (_Sorting, _Fast, _WithMemory):
        looker = _Looker(pickler, opened, within)
        try:
            looker.write(value)
        except _Many:
            continue  # to walk in Python
        except _TooMuch:
            break
        except (ValueError, RecursionError):  # it holds itself, or is nested very deeply
            continue
        except Exception:  # noqa: BLE001 (looking runs the user's code)
            break
        return Fingerprint(type(value), looker.checksum.digest(), looker.objects[1:], opened)
    size = len(value) if isinstance(value, _CONTAINERS) else 0
    return Fingerprint(type(value), str(size).encode(), [value], opened)


class _Many(Exception):
    pass


class _TooMuch(Exception):
    pass


class _Looker:
    """Writes a value to a checksum; what that cannot tell is in `objects`."""

    def __init__(self, pickler: type[_Fast], opened: bool, within: Any) -> None:
        self.pickler, self.opened = pickler, opened
        self.checksum = Checksum()
        self.objects: list[Any] = [within]
        self.known: dict[int, int] = {id(within): 0}
        self.attributes, self.bytes, self.arrays, self.parts = _MOST, _BYTES, _ARRAYS, _SORTED
        self.left = _OBJECTS
        self.inside = 0

    def write(self, value: Any) -> None:
        self.pickler(self).dump(value)

    def take(self, data: bytes) -> None:
        """What the pickler writes."""
        self.bytes -= len(data)
        if self.bytes < 0:
            raise _TooMuch
        self.checksum.update(data)

    def parts_of(self, value: Any) -> Any:
        """What is written of a value that is not plain data."""
        self.left -= 1
        if self.left < 0:
            raise _TooMuch
        kind = type(value)
        if issubclass(kind, _CLOSED):
            return self._known(value)
        if kind.__module__ == "numpy" and hasattr(kind, "dtype"):
            return self._array(value)
        for base, plain in _SCALARS:
            if issubclass(kind, base):
                return self._known(kind), plain(value), _dict_of(value)
        if issubclass(kind, tuple):
            return self._contents(value, kind)
        from pathlib import PurePath  # here, since most workers have no use for it

        if issubclass(kind, PurePath):
            return self._known(kind), str(value)
        if is_omegaconf(value):
            return _config(value)
        return self._object(value, kind)

    def _known(self, value: Any) -> int:
        """The number of an object, by which its identity is written."""
        number = self.known.get(id(value))
        if number is None:
            number = self.known[id(value)] = len(self.objects)
            self.objects.append(value)
        return number

    def _object(self, value: Any, kind: type[Any]) -> Any:
        fields = fields_of(value)
        if not self.opened:
            if fields is not None:
                return self._known(kind), fields
            return self._contents(value, kind) or self._known(value)
        met = id(value) in self.known
        number = self._known(value)
        if not met and self.inside < _INSIDE:
            state = _public(value, kind) if fields is None else fields
            self.attributes -= len(state)
            if state and self.attributes >= 0:
                # At once, so that how deep it stands is known; it may hold itself.
                self.inside += 1
                self.write((number, state, self._contents(value, kind)))
                self.inside -= 1
            elif not state:
                return number, self._contents(value, kind)
        return number

    def _contents(self, value: Any, kind: type[Any]) -> Any:
        """What a container of a class of its own holds, past the methods of its class."""
        if issubclass(kind, functools.partial):
            return self._known(kind), value.func, value.args, value.keywords
        for base in _CONTAINERS:
            if issubclass(kind, base):
                items: Any = dict.items(value) if base is dict else base.__iter__(value)
                if base in (set, frozenset):
                    return self._known(kind), set(items)
                return self._known(kind), list(items)
        return None

    def _array(self, value: Any) -> Any:
        is_closed = value.dtype.hasobject or (value.ndim and not self.opened)
        if is_closed or type(value).__name__ == "memmap" or _is_mapped(value):
            return self._known(value)
        if value.ndim == 0 or not value.nbytes:
            return type(value).__name__, repr(value.dtype), value.shape, value.tobytes()
        whole = value if value.flags.c_contiguous else value.T
        if value.nbytes <= self.arrays and whole.flags.c_contiguous:
            self.arrays -= value.nbytes
            self.checksum.update(memoryview(whole.reshape(-1).view("uint8")))
            return repr(value.dtype), value.shape, whole is value
        step = max(1, value.size // _SAMPLE)
        return repr(value.dtype), value.shape, value.flat[::step].tobytes()


class _Fast(pickle.Pickler):
    """Pickles what is plain data as it is, and each part anew wherever it stands."""

    def __init__(self, looker: _Looker) -> None:
        super().__init__(_File(looker), 5)
        self.fast = True
        self.looker = looker

    def reducer_override(self, value: Any) -> Any:
        if value is _is:
            return NotImplemented
        return _is, (self.looker.parts_of(value),)


class _Sorting(_Fast):
    """Sorts sets, whose order may change in a copy."""

    def persistent_id(self, value: Any) -> Any:
        self.looker.parts -= 1
        if self.looker.parts < 0:
            raise _Many
        if type(value) in (set, frozenset):
            try:
                return type(value).__name__, sorted(value)
            except TypeError:
                return type(value).__name__, sorted(value, key=_typed)
        return None


class _WithMemory(_Fast):
    """Knows what it has met, so that it comes to an end with what holds itself."""

    def __init__(self, looker: _Looker) -> None:
        super().__init__(looker)
        self.fast = False


class _File:
    def __init__(self, looker: _Looker) -> None:
        self.write = looker.take


def _is(parts: Any) -> None:
    """In what is written, what stands for a value of a class."""


def _typed(part: Any) -> tuple[str, str]:
    return type(part).__qualname__, repr(part)


def _dict_of(value: Any) -> dict[str, Any]:
    try:
        own: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return own


def _public(value: Any, kind: type[Any]) -> dict[str, Any]:
    """The public attributes; those of loggers, threads and the like are their own affair."""
    if kind.__module__ in ("logging", "threading"):
        return {}
    state = {name: part for name, part in _dict_of(value).items() if name[:1] != "_"}
    if kind.__module__.partition(".")[0] == "torch" and hasattr(kind, "_version"):
        state["changes in place"] = value._version
    return state


def _is_mapped(value: Any) -> bool:
    """Whether an array's data lie in a file, which may be anything's size."""
    while (base := getattr(value, "base", None)) is not None:
        value = base
    return type(value).__module__ == "mmap"


def _config(value: Any) -> Any:
    """What an OmegaConf container holds, as it is written, with its flags and structure."""
    from espnet3.user_code.omegaconf_nodes import nodes, own_flags, structure

    kind = type(value).__name__
    if not hasattr(value, "_get_node"):
        return kind, value._value()
    content = value.__dict__["_content"]
    if isinstance(content, dict | list | tuple):
        content = [
            (key, node if hasattr(node, "_get_node") else node._value())
            for key, node in nodes(value)
        ]
    return kind, structure(value), own_flags(value), content
