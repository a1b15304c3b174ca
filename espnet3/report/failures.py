"""What failed, by its exception. Pure."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from espnet3.report.model import Facts, Failure
from espnet3.text import cut, one_line

MOST_GROUPS = 20
_MOST_TRACEBACK = 6000  # bytes; twenty of them are far from a megabyte, whatever they hold
_RANKS = 12


@dataclass(frozen=True, slots=True)
class Group:
    """Failures that differ in numbers only.

    Attributes:
        type: of the exception.
        message: of the first of them, on one line.
        traceback: likewise, as it was recorded; its middle may be left out.
        ranks: the shards, in order.
        n: how many there are.
        n_recorded: how many of them are recorded as results.
        hosts: where they failed -> how many did.
        item: that of the first one, as JSON; "" where it is not known.
    """

    type: str
    message: str
    traceback: str
    ranks: tuple[int, ...]
    n: int
    n_recorded: int
    hosts: Counter[str]
    item: str

    @property
    def shards(self) -> str:
        """The shards, in words."""
        return in_words(self.ranks)


@dataclass(frozen=True, slots=True)
class Cause:
    """Shards that are not done for causes of one kind, with the words about the first of them."""

    state: str
    kind: str
    ranks: tuple[int, ...]
    words: str

    @property
    def shards(self) -> str:
        """The shards, in words."""
        return in_words(self.ranks)


def groups(facts: Facts) -> list[Group]:
    """The failures by exception, the most frequent first."""
    found: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in facts.failures:
        found[failure.type, _alike(failure.message)].append(failure)
    made = [_group(own) for own in found.values()]
    return sorted(made, key=lambda group: (-group.n, group.type, group.message))


def _alike(message: str) -> str:
    """What messages have in common that differ in numbers, addresses and what they quote."""
    line = one_line(message, 300)
    line = re.sub(r"0x[0-9a-fA-F]+", "0x", line)
    return re.sub(r"[0-9]+", "0", line)


def _group(own: Sequence[Failure]) -> Group:
    first = own[0]
    longest = first.traceback or next((f.traceback for f in own if f.traceback), "")
    return Group(
        one_line(first.type, 200),
        one_line(first.message, 300),
        cut(longest, _MOST_TRACEBACK),
        tuple(sorted({failure.rank for failure in own})),
        len(own),
        sum(failure.recorded for failure in own),
        Counter(one_line(failure.host, 100) for failure in own if failure.host),
        one_line(first.item, 200),
    )


def causes(facts: Facts) -> list[Cause]:
    """The shards that are not done by state and kind of cause, the most frequent first."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    words: dict[tuple[str, str], str] = {}
    for shard in facts.unfinished:
        key = shard.state, shard.kind or ""
        found[key].append(shard.rank)
        words.setdefault(key, shard.cause)
    made = [
        Cause(state, kind, tuple(ranks), one_line(words[state, kind], 300))
        for (state, kind), ranks in found.items()
    ]
    return sorted(made, key=lambda cause: (-len(cause.ranks), cause.state, cause.kind))


def in_words(ranks: Sequence[int]) -> str:
    """Ranks as a resume takes them, the first of many.

    Example:
        >>> in_words([3, 7, 8, 9]), in_words(range(0, 40, 2))
        ('3 7-9', '0 2 4 6 8 10 12 14 16 18 20 22 and 8 more')
    """
    spans: list[list[int]] = []
    for rank in ranks:
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    shown = " ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in spans[:_RANKS])
    left = sum(b - a + 1 for a, b in spans[_RANKS:])
    return f"{shown} and {left} more" if left else shown
