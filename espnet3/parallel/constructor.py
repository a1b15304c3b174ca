"""What an object was constructed with, so that a worker can construct it again."""

from __future__ import annotations

from typing import Any, Self


class RemembersArguments:
    """Base of classes whose instances are persisted as their class and constructor arguments.

    A subclass may give its constructor any signature; the arguments have to be JSON values or
    OmegaConf configs by the time of a submission.
    """

    constructor_arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        instance = super().__new__(cls)
        instance.constructor_arguments = (args, kwargs)
        return instance
