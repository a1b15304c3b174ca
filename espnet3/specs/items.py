"""Items as they are persisted: a range stays a range, anything else is a list of JSON values."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, JsonValue, model_validator

from espnet3.checksums import checksum
from espnet3.errors import ItemsError
from espnet3.specs.base import NestedModel
from espnet3.specs.plain import MAX_DEPTH, JsonWalk, NotJson, numpy_plain
from espnet3.text import one_line


class ItemRange(NestedModel):
    """The integers of `range(start, stop, step)`.

    Example:
        >>> list(ItemRange(start=0, stop=6, step=2))
        [0, 2, 4]
    """

    kind: Literal["range"] = "range"
    start: int
    stop: int
    step: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _can_be_counted(self) -> Self:
        count = -(-(self.stop - self.start) // self.step)
        if count > sys.maxsize:
            raise ValueError(f"{count} integers are too many items")
        return self

    def plain(self) -> range:
        """The items as a plain sequence, which costs nothing."""
        return range(self.start, self.stop, self.step)

    def __len__(self) -> int:
        return len(self.plain())

    def __iter__(self) -> Iterator[int]:  # type: ignore[override]  # items, not fields
        return iter(self.plain())

    def part(self, first: int, last: int) -> ItemRange:
        """The items from position `first` up to but without position `last`."""
        piece = self.plain()[first:last]
        return ItemRange(start=piece.start, stop=piece.stop, step=piece.step)

    def digest(self) -> str:
        """A text that differs where the items differ."""
        return f"range({self.start}, {self.stop}, {self.step})"


class ItemList(NestedModel):
    """Any JSON values, in order.

    Example:
        >>> list(ItemList(values=["a", "b"]).part(1, 2))
        ['b']
    """

    kind: Literal["list"] = "list"
    values: list[JsonValue]

    def plain(self) -> list[JsonValue]:
        """The items as a plain sequence, which costs nothing."""
        return self.values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[JsonValue]:  # type: ignore[override]  # items, not fields
        return iter(self.values)

    def part(self, first: int, last: int) -> ItemList:
        """The items from position `first` up to but without position `last`."""
        return ItemList.model_construct(values=self.values[first:last])

    def digest(self) -> str:
        """A text that differs where the items differ."""
        return checksum(orjson.dumps(self.values))


Items = Annotated[ItemRange | ItemList, Field(discriminator="kind")]


def may_change(inputs: ItemRange | ItemList) -> bool:
    """Whether code that gets one of the items can change it: whether there are lists or dicts."""
    return isinstance(inputs, ItemList) and not {list, dict}.isdisjoint(map(type, inputs.values))


def batched(inputs: ItemRange | ItemList, batch_size: int | None) -> Sequence[JsonValue]:
    """The items that `forward` sees: the inputs one by one, or lists of `batch_size` of them.

    They are made when they are asked for, so a shard may have millions.
    """
    return inputs.plain() if batch_size is None else _Batches(inputs.plain(), batch_size)


class _Batches(Sequence[JsonValue]):
    def __init__(self, inputs: Sequence[Any], size: int) -> None:
        self._inputs, self._size = inputs, size

    def __len__(self) -> int:
        return -(-len(self._inputs) // self._size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        first = range(len(self))[index] * self._size
        return list(self._inputs[first : first + self._size])


def shard_bounds(rank: int, world_size: int, n_items: int) -> tuple[int, int]:
    """Positions of a shard's first item and of the item after its last one.

    Shards differ by one item at most, and follow each other in the items' order.

    Example:
        >>> [shard_bounds(rank, 3, 10) for rank in range(3)]
        [(0, 3), (3, 6), (6, 10)]
    """
    return n_items * rank // world_size, n_items * (rank + 1) // world_size


def count_batches(n_inputs: int, batch_size: int | None) -> int:
    """How many items `batched` yields for that many inputs."""
    return n_inputs if batch_size is None else -(-n_inputs // batch_size)


def plan_items(items: object) -> ItemRange | ItemList:
    """Bring a caller's items into the persisted form.

    Args:
        items: an iterable of JSON values; NumPy integers, floats and arrays and tuples are taken
            for what they mean in JSON. Integers that form an arithmetic progression become a range.

    Returns:
        The items; never empty.

    Raises:
        ItemsError: there are none, or one of them is not a JSON value (named with its position).

    Example:
        >>> plan_items([2, 4, 6])
        ItemRange(kind='range', start=2, stop=7, step=2)
    """
    if isinstance(items, range) and items:
        _check_json([items[0], items[-1]])
        if items[-1] - items[0] >= sys.maxsize:
            raise ItemsError(f"items: {items} are too many to count")
        progression = _progression(items)
        if progression is not None:
            return progression
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise ItemsError(
            f"items: expected an iterable such as range(1000) or a list, "
            f"got {type(items).__name__} {one_line(repr(items), 60)}"
        )
    values = list(items)
    if not set(map(type, values)) <= {int, str, bool}:
        values = _json_values(values)
    if not values:
        raise ItemsError("items: there are none; give at least one item")
    _check_json(values)
    if set(map(type, values)) == {int}:
        progression = _progression(values)
        if progression is not None:
            return progression
    return ItemList(values=values)


def _check_json(values: list[Any]) -> None:
    try:
        orjson.dumps(values)
    except orjson.JSONEncodeError as error:
        raise ItemsError(f"items: not JSON: {error}") from None


def _progression(values: Sequence[int]) -> ItemRange | None:
    """The values as a range, if they are one."""
    if not values:
        return None
    step = values[1] - values[0] if len(values) > 1 else 1
    if step < 1:
        return None
    candidate = range(values[0], values[-1] + step, step)
    if isinstance(values, range) or (
        len(candidate) == len(values)
        and all(a == b for a, b in zip(candidate, values, strict=True))
    ):
        return ItemRange(start=values[0], stop=values[-1] + 1, step=step)
    return None


class _ItemWalk(JsonWalk):
    """Takes NumPy's scalars and arrays for what they mean in JSON."""

    def plainer(self, value: Any) -> Any:
        try:
            return super().plainer(value)
        except NotJson:
            return numpy_plain(value)


_ITEMS = _ItemWalk()


def _json_values(values: list[Any]) -> list[Any]:
    """Items as plain JSON, or an error that says where what is not stands."""
    made: list[Any] = []
    try:
        for value in values:
            made.append(_ITEMS.plain(value))
    except NotJson as error:
        where = one_line(f"items[{len(made)}]{error.place}", 120)
        raise ItemsError(f"{where}: {_problem(error)}") from None
    return made


def _problem(error: NotJson) -> str:
    if error.reason == "depth":
        return f"is nested deeper than {MAX_DEPTH} levels"
    if error.reason == "key":
        return f"the key {error.part!r} is not a string, so it is not JSON"
    if error.reason == "number":
        return str(error)
    return (
        f"{one_line(repr(error.part), 60)} of type {error.kind} is not JSON; "
        "pass indices or plain values and load the rest in the provider"
    )
