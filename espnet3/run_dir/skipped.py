"""Which recorded errors stand for items that were passed over (decision 0026)."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import orjson

from espnet3.errors import EspnetError
from espnet3.run_dir.result_lines import SKIPPED
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs import layout
from espnet3.specs.models import ResultPart
from espnet3.storage.base import Store

_WORD = f'"{SKIPPED}"'.encode()  # of which each such line has one


class Skips(NamedTuple):
    """What the submissions of a run pass over: number -> rank -> positions there.

    Example:
        >>> skips = Skips({2: {7: frozenset({0, 3})}})
        >>> skips.of("0002-00a0b0c0d0e0", 7), skips.among(1, "0002-00a0b0c0d0e0", 7)
        (frozenset({0, 3}), 1)
    """

    by_number: Mapping[int, Mapping[int, frozenset[int]]]

    @classmethod
    def read(cls, submissions: Iterable[KnownSubmission]) -> Skips:
        """Of all submissions of a run."""
        found: dict[int, dict[int, frozenset[int]]] = {}
        for submission, _ in submissions:
            for item in submission.skip:
                own = found.setdefault(submission.number, {})
                own[item.rank] = own.get(item.rank, frozenset()) | {item.position}
        return cls(found)

    def of(self, attempt: str, rank: int) -> frozenset[int]:
        """The positions in a shard that an attempt passes over, unless a result is there."""
        number = layout.submission_of(attempt) if self.by_number else 0
        if number:
            return self.by_number.get(number, {}).get(rank, frozenset())
        # `run-shard`, which is of none, does as the newest one of its time said.
        of_rank = (own.get(rank, frozenset()) for own in self.by_number.values())
        return frozenset[int]().union(*of_rank)

    @property
    def ranks(self) -> frozenset[int]:
        """The shards of which any submission passes something over."""
        return frozenset().union(*self.by_number.values())

    def among(self, errors: int, attempt: str, rank: int) -> int:
        """How many of a shard's errors are skipped items, at most.

        Fewer are where an item had a result already when it was named, and another one failed.
        """
        return min(errors, len(self.of(attempt, rank)))


class _Vouched(Protocol):
    """A receipt, whole or partial, or a shard without one."""

    @property
    def rank(self) -> int: ...
    @property
    def parts(self) -> Sequence[ResultPart]: ...
    @property
    def errors(self) -> int: ...


def read_skipped(store: Store, shards: Iterable[_Vouched], skips: Skips) -> int:
    """How many of the recorded errors of some shards stand for skipped items, as results tell it.

    Args:
        store: the run directory.
        shards: their receipts, or what there is of them.
        skips: of the run; only results of shards that it names are read.
    """
    ranks = skips.ranks
    return sum(
        _read(store, shard.rank, shard.parts)
        for shard in shards
        if shard.errors and shard.rank in ranks
    )


def _read(store: Store, rank: int, parts: Iterable[ResultPart]) -> int:
    """How many lines of some results stand for skipped items; none of what cannot be read."""
    found = 0
    for part in parts:
        file = layout.parse_result(part.file)
        if file is None or file.rank != rank:
            continue
        first = part.first - file.first
        with (
            contextlib.suppress(EspnetError, OSError),
            store.open(layout.result(*file)) as stream,
        ):
            found += sum(map(_is_skipped, itertools.islice(stream, first, first + part.records)))
    return found


def _is_skipped(line: bytes) -> bool:
    if _WORD not in line:
        return False
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return bool(orjson.loads(line)["error"]["type"] == SKIPPED)
    return False
