"""Which keyword arguments a function of the user's takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def taken_by(function: Callable[..., Any], names: Iterable[str]) -> list[str]:
    """Those of some names that a function takes as keywords, in their order; all with `**kwargs`.

    Nothing is known of some functions that are written in C: none, then.

    Example:
        >>> def forward(idx, /, model, *args, beam=5): ...
        >>> taken_by(forward, ["beam", "idx", "args", "model", "dataset"])
        ['beam', 'model']
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return []
    if any(each.kind is each.VAR_KEYWORD for each in parameters):
        return [*names]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {each.name for each in parameters if each.kind in kinds}
    return [name for name in names if name in taken]
