"""What an object was constructed with, so that a worker can construct it again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Self, SupportsIndex

from espnet3.user_code.equality import copied
from espnet3.user_code.instances import (
    Record,
    Recorded,
    its_state,
    own_state,
    record_of,
    reduced,
    remember,
    set_state,
)


class RemembersArguments(Recorded):
    """Base of classes whose instances are persisted as their class and constructor arguments.

    A subclass may give its constructor any signature. Arguments are copied before the constructor
    gets them, and what it made of them is looked at when it is done: what was changed since is
    persisted too. A submission refuses what a worker could not be given.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _look_after_construction(cls)
        instance = super().__new__(cls)
        remember(instance, Record(copied((args, kwargs))))
        return instance

    @property
    def constructor_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of the constructor, as they were: positional ones, and keywords."""
        record = record_of(self)
        if record is None:
            raise AttributeError("constructor_arguments")
        return record.arguments

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return reduced(self, super().__reduce_ex__(protocol))

    def __getstate__(self) -> Any:
        return own_state(super().__getstate__())

    def __setstate__(self, state: Any) -> None:
        with its_state(self, state) as own:
            set_state(self, own)


def _look_after_construction(cls: type[Any]) -> None:
    """Have a class's constructor, and what fills a copy, end with a look at the instance.

    At the first instance, since decorators such as `dataclass` make constructors after the class;
    and without a metaclass, which could not be combined with those of other bases.
    """

    def look(self: Any) -> None:
        record = record_of(self)
        if type(self) is cls and record is not None:
            record.look(self)

    def construct(call: Callable[..., None], self: Any, /, *args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        look(self)

    def fill(call: Callable[..., None], self: Any, /, state: Any) -> None:
        with its_state(self, state) as own:
            if own is not None:
                call(own)

    _wrap(cls, "__init__", construct)
    if cls.__setstate__ is not RemembersArguments.__setstate__:
        _wrap(cls, "__setstate__", fill)


def _wrap(cls: type[Any], name: str, around: Callable[..., None]) -> None:
    own = vars(cls).get(name)
    if getattr(own, "_looks_for", None) is cls:
        return

    @functools.wraps(getattr(cls, name))
    def method(self: Any, /, *args: Any, **kwargs: Any) -> None:
        bound = getattr(super(cls, self), name) if own is None else own.__get__(self, type(self))
        around(bound, self, *args, **kwargs)

    method._looks_for = cls  # type: ignore[attr-defined]
    type.__setattr__(cls, name, method)
