"""Results as rows: one for each item, with a column for each field of its result."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Protocol, TypeVar

from espnet3.collect.result_parts import Shard, Vouched, read_in_turn
from espnet3.errors import UsageError
from espnet3.run_dir.result_lines import ResultRecord, decode_line
from espnet3.run_dir.verification import line_blocks
from espnet3.specs.models import ResultPart

ITEM, RESULT, ERROR = "item", "result", "error"  # columns of ours
MOST_COLUMNS = 1000  # of a table; results with more are maps, and no table is as wide
PIECE = 4 << 20  # bytes of lines that become rows at once
_OWN = frozenset({ITEM, RESULT, ERROR})
_BEHIND = "result."
Row = dict[str, Any]


def column_of(field: str) -> str:
    """The column of a result's field; those that would be taken for one of ours are renamed.

    Example:
        >>> column_of("text"), column_of("item"), column_of("result.item")
        ('text', 'result.item', 'result.result.item')
    """
    return f"{_BEHIND}{field}" if field in _OWN or field.startswith(_BEHIND) else field


def field_of(column: str) -> str:
    """The field that a column is of, as `column_of` tells."""
    return column.removeprefix(_BEHIND)


def row_of(record: ResultRecord) -> Row:
    """A record as a row: the item, its result's fields or else its result, and its error.

    Example:
        >>> row_of(ResultRecord(3, {"text": "yes"})), row_of(ResultRecord(4, 0.5))
        ({'item': 3, 'text': 'yes'}, {'item': 4, 'result': 0.5})
    """
    row = {ITEM: record.item}
    if isinstance(record.result, dict):
        row.update((column_of(field), value) for field, value in record.result.items())
    elif record.result is not None:
        row[RESULT] = record.result
    if record.error is not None:
        row[ERROR] = record.error.model_dump()
    return row


def rows_of(lines: bytes, where: str) -> list[Row]:
    """Result lines as rows.

    Args:
        lines: whole lines.
        where: what they are, for errors.

    Raises:
        InvalidFile: a line is not a result line.
    """
    return [row_of(decode_line(line, where)) for line in lines.splitlines()]


def in_order(columns: Iterable[str]) -> list[str]:
    """Columns as they stand in a table: items first, errors last, the others as they come.

    Example:
        >>> in_order(["error", "text", "item"])
        ['item', 'text', 'error']
    """
    return sorted(columns, key=lambda name: (name != ITEM, name == ERROR))


def require_few(columns: Iterable[str]) -> None:
    """Refuse more columns than a table may have.

    Raises:
        UsageError: there are more.
    """
    names = list(columns)
    if len(names) > MOST_COLUMNS:
        raise UsageError(
            f"the results have more than {MOST_COLUMNS} different fields, such as {names[-1]!r}, "
            "which is no table; collect them to .jsonl, or put what is keyed by them in one field"
        )


def feed(vouched: Vouched, take: Callable[[bytes, str], None]) -> None:
    """Call `take` with all verified lines in order, some MB at once, and with what they are.

    Args:
        vouched: the results; none of them is pickled.
        take: gets whole lines.

    Raises:
        DamagedResult: a result file is not what its receipt vouched for.
    """
    held: list[bytes] = []
    ranks: list[int] = []
    size = 0

    def held_back(shard: Shard, part: ResultPart, source: BinaryIO) -> Iterator[bytes]:
        nonlocal size
        for lines in line_blocks(source, part.bytes, f"results of shard {shard.rank}"):
            vouched.require_wanted()
            held.append(lines)
            ranks.append(shard.rank)
            size += len(lines)
            if size >= PIECE:
                hand_over()
            yield lines

    def hand_over() -> None:
        nonlocal size
        first, last = ranks[0], ranks[-1]
        shards = f"shard {first}" if first == last else f"shards {first} to {last}"
        lines = b"".join(held)
        held.clear()
        ranks.clear()
        size = 0
        take(lines, f"results of {shards}")

    read_in_turn(vouched, held_back)
    if held:
        hand_over()


class Sink(Protocol):
    """Makes a table of lines.

    Attributes:
        outgrown: whether lines came that the columns known at its beginning do not fit; it has
            learnt of all lines what columns they need, so that another one can begin with these.
    """

    outgrown: bool

    def take(self, lines: bytes, where: str, /) -> None:
        """Take the next lines."""

    def close(self) -> None:
        """Write what is left; the table is whole, unless it is outgrown."""


class _Outgrown(Exception):
    """What is written lacks a column, or has one of the wrong type."""


S = TypeVar("S", bound=Sink)


def filled(vouched: Vouched, begin: Callable[[], contextlib.AbstractContextManager[S]]) -> S:
    """A sink that has taken all lines.

    Most results are alike, so a table is written from the first line on with the columns seen
    there. Where a later line does not fit, the rest is only looked at, and the table begun anew.

    Args:
        vouched: the results.
        begin: opens a sink, with the columns that the one before has left; what it has written
            counts for nothing where its block is left by an error.
    """
    while True:
        with contextlib.suppress(_Outgrown), begin() as sink:
            feed(vouched, sink.take)
            if not sink.outgrown:
                sink.close()
            if sink.outgrown:
                raise _Outgrown
            return sink
