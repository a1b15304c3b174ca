"""Calling a function of the user's: whatever it raises is an error that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espnet3.errors import ClassError
from espnet3.redaction import scrubbed
from espnet3.text import one_line


def call_for_item(function: Callable[[Any], Any], item: Any, name: str) -> Any:
    """What a function makes of an item.

    Args:
        function: the user's.
        item: its one argument.
        name: what the user calls the function.

    Raises:
        ClassError: it raised; the original exception is the cause.

    Example:
        >>> call_for_item(abs, -2, "builtins:abs")
        2
    """
    try:
        return function(item)
    except (Exception, SystemExit) as error:  # the user's code
        words = one_line(scrubbed(str(error)))
        at = one_line(repr(item), 60)
        raise ClassError(name, f"failed for item {at}: {type(error).__name__}: {words}") from error
