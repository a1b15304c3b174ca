"""Weights of items: what a user gives, and shards that are cut by them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import orjson

from espnet3.errors import ClassError, ConfigError
from espnet3.specs.items import ItemList, ItemRange
from espnet3.specs.models import ClassReference
from espnet3.text import counted, one_line
from espnet3.user_code.calling import call_for_item
from espnet3.user_code.references import find_class

_FIELD = "parallel.weights"
_BEGINS_JSON = ("[", "{", '"')  # which no number does


def weights_of(said: str | Sequence[float], items: ItemRange | ItemList) -> list[float]:
    """A weight for each item.

    Args:
        said: the weights; or the path of a file that holds them, one on each line or as a JSON
            list (`.json`, or what begins like JSON); or a function of an item, as in
            `my_module:seconds`.
        items: the items.

    Raises:
        ConfigError: they cannot be had, are not one for each item, or one is not a number from 0.

    Example:
        >>> weights_of([1, 2.5], ItemList(values=["a", "b"]))
        [1.0, 2.5]
        >>> weights_of("math:sqrt", ItemRange(start=4, stop=6))[0]
        2.0
    """
    if not isinstance(said, str):
        found: Sequence[Any] = said
    elif ":" in said and "/" not in said:
        found = _by_function(said, items)
    else:
        found = _from_file(said)
    if len(found) != len(items):
        problem = f"are {len(found)} for {counted(len(items), 'item')}; give one for each"
        raise ConfigError(_FIELD, problem)
    weights = []
    for position, value in enumerate(found):
        weight = _number(value)
        if not 0 <= weight < math.inf:
            shown = one_line(repr(value), 40)
            raise ConfigError(
                f"{_FIELD}[{position}]", f"must be a finite number from 0, got {shown}"
            )
        weights.append(weight)
    return weights


def _number(value: Any) -> float:
    """A value as a number; not one where it is none."""
    if isinstance(value, bool):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _by_function(said: str, items: ItemRange | ItemList) -> list[Any]:
    module, _, name = said.partition(":")
    try:
        function = find_class(ClassReference(module=module, qualname=name))
        if not callable(function):
            raise ConfigError(_FIELD, f"{said} is {one_line(repr(function), 80)}, no function")
        # As a number, too: what the user's code returns may raise there (a tensor of two numbers).
        return [call_for_item(lambda it: _of_call(function(it)), item, said) for item in items]
    except ClassError as error:
        raise ConfigError(_FIELD, str(error)) from error.__cause__


def _of_call(value: Any) -> Any:
    """What a function returned, as a plain number where it is another kind of one."""
    plain = value is None or isinstance(value, str | bool | int | float)
    return value if plain else float(value)


def _from_file(file: str) -> Sequence[Any]:
    try:
        with open(os.path.expanduser(file), "rb") as opened:
            data = opened.read()
    except OSError as error:
        problem = f"{file}: {error.strerror}; name a file, or a function as in my_module:seconds"
        raise ConfigError(_FIELD, problem) from None
    text = data.decode("utf-8-sig", "backslashreplace")  # Windows' editors write a mark first
    if not file.endswith(".json") and not text.lstrip().startswith(_BEGINS_JSON):
        return text.split()
    try:
        read = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(_FIELD, f"{file}: {error}") from None
    if not isinstance(read, list):
        raise ConfigError(_FIELD, f"{file}: holds no list; write one number for each item in it")
    return read


def by_call(weights: Sequence[float], batch_size: int | None) -> list[float]:
    """The weight of each call of `forward`, which may get a list of items.

    Example:
        >>> by_call([1.0, 2.0, 3.0], 2)
        [3.0, 3.0]
    """
    if batch_size is None:
        return list(weights)
    return [sum(weights[i : i + batch_size]) for i in range(0, len(weights), batch_size)]


def equal_weight_bounds(weights: Sequence[float], n_shards: int) -> list[int]:
    """Cut items into shards of about equal weight, in their order; each has an item at least.

    Returns:
        Position of each shard's first item, and at the end the number of items.

    Example:
        >>> equal_weight_bounds([1.0, 1.0, 1.0, 3.0], 2)
        [0, 3, 4]
    """
    sums = [0.0, *accumulate(weights)]
    total = sums[-1]
    if total <= 0:
        return [len(weights) * rank // n_shards for rank in range(n_shards + 1)]
    bounds, at = [0], 0
    for rank in range(1, n_shards):
        wanted = total * rank / n_shards
        last = len(weights) - (n_shards - rank)  # what is behind it needs items, too
        at += 1
        while at < last and abs(sums[at + 1] - wanted) <= abs(sums[at] - wanted):
            at += 1
        bounds.append(at)
    return [*bounds, len(weights)]


def shard_weights(weights: Sequence[float], bounds: Sequence[int]) -> list[float]:
    """The weight of each shard.

    Example:
        >>> shard_weights([1.0, 1.0, 1.0, 3.0], [0, 3, 4])
        [3.0, 3.0]
    """
    return [sum(weights[a:b]) for a, b in pairwise(bounds)]
