"""Tuples with named fields, whose classes cost a worker's start next to nothing.

NamedTuple compiles code for each field and each class, and a worker's modules define 25 of them:
that was a tenth of its start. So the modules that every worker imports define `Struct`s, but where
instances are made by the thousand: those of NamedTuple are made in C.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Any, ClassVar, Self, dataclass_transform

_new = tuple.__new__


@dataclass_transform(frozen_default=True)
class Struct(tuple[Any, ...]):
    """The base of a class whose annotated names are its fields, with a default or without.

    Raises:
        TypeError: a field is missing, or there is no such field; of a class, it is a subclass of
            one that has fields, or has a ClassVar.

    Example:
        >>> class Extent(Struct):
        ...     first: int
        ...     end: int = 0
        >>> extent = Extent(3)._replace(end=5)
        >>> extent, extent.first, extent == (3, 5)
        (Extent(first=3, end=5), 3, True)
    """

    _fields: ClassVar[tuple[str, ...]] = ()
    _field_defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls) -> None:
        if cls.__base__ is not Struct:
            raise TypeError(f"{cls.__name__}: the fields of a Struct cannot be added to")
        kinds = cls.__annotations__
        if any("ClassVar" in str(kind) for kind in kinds.values()):
            raise TypeError(f"{cls.__name__}: a ClassVar would be a field of it")
        cls._fields = names = tuple(kinds)
        cls._field_defaults = {name: vars(cls)[name] for name in names if name in vars(cls)}
        for position, name in enumerate(names):
            setattr(cls, name, property(itemgetter(position)))

    def __new__(cls, *values: Any, **named: Any) -> Self:
        if named or len(values) != len(cls._fields):
            values = cls._all_values(values, named)
        return _new(cls, values)

    @classmethod
    def _all_values(cls, values: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
        rest, defaults = cls._fields[len(values) :], cls._field_defaults
        try:
            values += tuple([named.pop(f) if f in named else defaults[f] for f in rest])
        except KeyError as missing:
            raise TypeError(f"{cls.__name__}: {missing} is missing") from None
        if named or len(values) != len(cls._fields):
            raise TypeError(f"{cls.__name__} takes {' and '.join(cls._fields)}, each at most once")
        return values

    def __getnewargs__(self) -> tuple[Any, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._asdict().items())
        return f"{type(self).__name__}({fields})"

    def _asdict(self) -> dict[str, Any]:
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **values: Any) -> Self:
        return type(self)(**self._asdict() | values)
