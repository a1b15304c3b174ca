"""The base of all errors that espnet3 raises on purpose."""

from __future__ import annotations

from typing import Any

from espnet3.text import visible


class EspnetError(Exception):
    """Base of all errors that espnet3 raises on purpose.

    Their message holds nothing that a terminal would obey, whatever was quoted in it.
    """

    def __str__(self) -> str:
        return visible(super().__str__())

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is pickled as a call with its message, which is not what ours are made from;
        # Dask pickles those that a worker raises.
        return _restore, (type(self), self.args, self.__dict__)


def _restore(cls: type[EspnetError], args: tuple[Any, ...], fields: dict[str, Any]) -> EspnetError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(fields)
    return error
