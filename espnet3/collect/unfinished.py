"""What shards without a receipt hold already, for a collection that may be partial."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from espnet3.checksums import Checksum
from espnet3.errors import FileMissing, FormatError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.receipt_history import read_receipt_history
from espnet3.run_dir.salvage import Salvage, later_lines, list_results, salvage
from espnet3.run_dir.submissions import KnownSubmission, errors_from
from espnet3.run_dir.verification import BLOCK
from espnet3.specs import layout
from espnet3.specs.items import batched
from espnet3.specs.models import ResultPart, RunSpec
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather

_READERS = 8  # threads
Positions = tuple[int, int]  # of the first item, and after the last one


class Unfinished(NamedTuple):
    """A shard without a receipt, as far as it goes; as a `Receipt`, where they are alike.

    Attributes:
        rank: the shard.
        parts: those of its results, in order; the last one may be `scattered`.
        records: how many results they hold.
        errors: how many of these are recorded errors.
        missing: positions in the run of the items that they lack.
        files: names of all result files that they come from.
        scattered: the lines behind the first one that is missing, as if they were a file.
        lines: gives these lines.
    """

    rank: int
    parts: list[ResultPart]
    records: int
    errors: int
    missing: list[Positions]
    files: list[str]
    scattered: ResultPart | None
    lines: Callable[[], Iterator[bytes]]

    def open_scattered(self) -> BinaryIO:
        """The scattered lines, from their beginning."""
        return io.BufferedReader(_Lines(self.lines()), BLOCK)


def read_unfinished(
    directory: RunDirectory,
    run: RunSpec,
    ranks: Sequence[int],
    submissions: Sequence[KnownSubmission],
) -> list[Unfinished]:
    """What shards hold that have no receipt.

    Args:
        directory: the run directory.
        run: its run.json.
        ranks: the shards, in order.
        submissions: all of the run.

    Returns:
        One for each, in their order.
    """
    listed = list_results(directory.store)
    receipts = directory.receipts(run.world_size)
    count_from = errors_from(submissions)

    def read(rank: int) -> Unfinished:
        first, last = run.bounds_of(rank)
        if rank in listed and run.writers is None:  # of theirs no part of a shard is merged
            with contextlib.suppress(FileMissing, FormatError):  # nothing to compare it with
                generation = receipts.generation(rank)
                return _read(directory, run, rank, generation, listed[rank], count_from(rank))
        return Unfinished(rank, [], 0, 0, [(first, last)], [], None, lambda: iter(()))

    return gather(read, ranks, _READERS)


def _read(
    directory: RunDirectory,
    run: RunSpec,
    rank: int,
    generation: int,
    files: Iterable[layout.ResultFile],
    count_from: int,
) -> Unfinished:
    store, (first, last) = directory.store, run.bounds_of(rank)
    items = batched(directory.shard(run, rank).items, run.batch_size)
    history = read_receipt_history(store, run, rank, generation, count_from)
    found = salvage(store, files, items, history, durable=False)
    parts, records, errors = [*found.parts], found.records, found.errors
    missing: list[Positions] = [(first + found.reached, last)] if found.reached < len(items) else []
    names = [part.file for part in parts]
    scattered = None
    if found.later:
        missing = []
        names += [layout.result(*extent.file).rpartition("/")[2] for extent in found.later]
        checksum, n, size = Checksum(), 0, 0
        for position, line in enumerate(later_lines(store, found, items), first + found.reached):
            if line is None:
                add_positions(missing, (position, position + 1))
                continue
            checksum.update(line[0])
            n, size, errors = n + 1, size + len(line[0]), errors + line[1]
        if n:
            scattered = ResultPart(
                file=names[-1], first=found.reached, records=n, bytes=size,
                checksum=str(checksum),
            )  # fmt: skip
            parts, records = [*parts, scattered], records + n
    lines = _lines_of(store, found, items)
    return Unfinished(rank, parts, records, errors, missing, names, scattered, lines)


def add_positions(found: list[Positions], more: Positions) -> None:
    """Add positions at the end of some, which grow where these follow.

    Example:
        >>> found = [(0, 3)]
        >>> add_positions(found, (3, 5)); add_positions(found, (7, 8)); found
        [(0, 5), (7, 8)]
    """
    if found and found[-1][1] == more[0]:
        found[-1] = found[-1][0], more[1]
    else:
        found.append(more)


def positions_in_words(found: Sequence[Positions], most: int = 20) -> str:
    """Positions for a person.

    Args:
        found: in order; each the first one, and that after the last one.
        most: how many stretches are named.

    Example:
        >>> positions_in_words([(0, 1), (1, 2), (5, 9)])
        '0-1, 5-8'
    """
    joined: list[Positions] = []
    for each in found:
        add_positions(joined, each)
    shown = [f"{a}" if b == a + 1 else f"{a}-{b - 1}" for a, b in joined[:most]]
    return ", ".join(shown) + (" …" if len(joined) > most else "")


def _lines_of(store: Store, found: Salvage, items: Sequence[Any]) -> Callable[[], Iterator[bytes]]:
    return lambda: (line[0] for line in later_lines(store, found, items) if line is not None)


class _Lines(io.RawIOBase):
    """Lines as a file."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines, self._rest = lines, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._lines, b"")
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n
