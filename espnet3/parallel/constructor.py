"""What an object was constructed with, so that a worker can construct it again."""

from __future__ import annotations

import functools
from typing import Any, Self

from espnet3.user_code.alike import copied
from espnet3.user_code.held import look_at_instance


class RemembersArguments:
    """Base of classes whose instances are persisted as their class and constructor arguments.

    A subclass may give its constructor any signature. Arguments are copied before the constructor
    gets them, and what it made of them is looked at when it is done: what was changed since is
    persisted too. A submission refuses what a worker could not have alike.
    """

    constructor_arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        _look_after_construction(cls)
        instance = super().__new__(cls)
        # Not `instance.x = …`, which is the subclass's own affair (`__setattr__`, frozen ones).
        object.__setattr__(instance, "constructor_arguments", copied((args, kwargs)))
        return instance


def _look_after_construction(cls: type[Any]) -> None:
    """Have a class's constructor end with a look at the instance.

    At the first instance, since decorators such as `dataclass` make constructors after the class;
    and without a metaclass, which could not be combined with those of other bases.
    """
    own = vars(cls).get("__init__")
    if getattr(own, "_looks_for", None) is cls:
        return

    @functools.wraps(cls.__init__)
    def __init__(self: Any, /, *args: Any, **kwargs: Any) -> None:
        if own is None:
            super(cls, self).__init__(*args, **kwargs)
        else:
            own.__get__(self, type(self))(*args, **kwargs)
        if type(self) is cls:
            look_at_instance(self)

    __init__._looks_for = cls  # type: ignore[attr-defined]
    type.__setattr__(cls, "__init__", __init__)
