"""Which item a person means: by its value, as messages show it, or by its position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import orjson

from espnet3.errors import UsageError
from espnet3.specs.plain import plain_json
from espnet3.text import counted, one_line, plural


class WantedItem(NamedTuple):
    """An item that somebody asks for.

    Attributes:
        word: as it was given.
        position: where it is among others, from 0; None where its value says which.
        value: what it is, where no position is given.
    """

    word: str
    position: int | None
    value: Any

    def position_in(self, items: Sequence[Any], before: int = 0) -> int | None:
        """Where it is among the items that `forward` gets; None where it is not there.

        A batch is meant by what it holds, too.

        Args:
            items: the items, or some that follow each other.
            before: how many lie before them.
        """
        if self.position is not None:
            here = self.position - before
            return here if 0 <= here < len(items) else None
        if isinstance(items, range):  # which may have millions
            known = type(self.value) is int and self.value in items
            return items.index(self.value) if known else None
        batches = []
        for at, item in enumerate(items):
            if _same(item, self.value):
                return at
            if isinstance(item, list) and any(_same(one, self.value) for one in item):
                batches.append(at)
        return batches[0] if batches else None

    def missing(self, where: str, n_items: int) -> UsageError:
        """What is said where there is no such item."""
        if self.position is not None:
            last = "" if n_items == 1 else f" to {n_items - 1}"
            at = f"at {plural(n_items, 'position')} 0{last}"
            return UsageError(f"{self.word}: {where} has {counted(n_items, 'item')}, {at}")
        return UsageError(
            f"{one_line(self.word, 80)}: is no item of {where}; give its value as JSON, or its "
            f"position as @0 to @{max(0, n_items - 1)}"
        )


def wanted_item(word: str) -> WantedItem:
    """What a word means: an item's JSON value, text that is no JSON as it is, or `@POSITION`.

    Example:
        >>> wanted_item("7").value, wanted_item("utt-3").value, wanted_item("@7").position
        (7, 'utt-3', 7)
    """
    if word.startswith("@") and word[1:].isascii() and word[1:].isdecimal():
        return WantedItem(word, int(word[1:]), None)
    try:
        return WantedItem(word, None, orjson.loads(word))
    except orjson.JSONDecodeError:
        return WantedItem(word, None, word)


def _same(item: Any, value: Any) -> bool:
    """Whether an item is a value: 1 and true are not the same, nor 1 and 1.0."""
    if type(item) is type(value) and isinstance(item, (str, int, bool)):
        return bool(item == value)
    if type(item) in (str, int, bool, float, type(None)):
        return type(item) is type(value) and bool(item == value)
    try:
        return orjson.dumps(plain_json(item, "item"), option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            value, option=orjson.OPT_SORT_KEYS
        )
    except (UsageError, orjson.JSONEncodeError):
        return False  # what is no JSON is nobody's value here
