"""What predecessors of an attempt left: parts that it refers to, and lines that it copies."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import orjson

from espnet3._structs import Struct
from espnet3.checksums import Checksum
from espnet3.errors import FileMissing, StoreError
from espnet3.run_dir.receipt_history import NO_HISTORY, ReceiptHistory
from espnet3.run_dir.result_lines import MAX_LINE
from espnet3.specs import layout
from espnet3.specs.models import ErrorRecord, ResultPart
from espnet3.storage.base import Store, mapped

PIECE = 1 << 20  # bytes
Kept = tuple[bytes, bool]  # a line, and whether it is an error record


class TrustedExtent(Struct):
    """A result file of a predecessor and how far it is believed.

    Attributes:
        file: the file.
        unbroken: position after the last good line before which all lines are good.
        end: position after the last good line.
        errors: whether its recorded errors are good.
    """

    file: layout.ResultFile
    unbroken: int
    end: int
    errors: bool


class Salvage(Struct):
    """Parts that hold a shard's first `records` results, `errors` of which are failed items.

    They reach up to position `reached`. `later` are the files that have good lines behind it.
    """

    parts: list[ResultPart]
    records: int
    errors: int
    later: list[TrustedExtent]
    reached: int


NOTHING = Salvage([], 0, 0, [], 0)


def list_results(store: Store) -> dict[int, list[layout.ResultFile]]:
    """All result files of a run by rank; one look at the folder for all shards of a process."""
    found: dict[int, list[layout.ResultFile]] = {}
    for file in map(layout.parse_result, store.names(layout.RESULTS)):
        if file is not None:
            found.setdefault(file.rank, []).append(file)
    return found


def salvage(
    store: Store,
    files: Iterable[layout.ResultFile],
    items: Sequence[Any],
    history: ReceiptHistory = NO_HISTORY,
    first: int = 0,
    end: int | None = None,
    *,
    durable: bool = True,
) -> Salvage:
    """Find the longest good prefix of a shard in what its predecessors wrote, and what is behind.

    Or of what lies between two positions of it.

    A file holds records from position `first` on. Two live copies of a shard may have written
    overlapping files; a part is always a prefix of a file, so it can be cut where another begins.
    Failed items at a file's end are not believed unless a receipt vouched for them: what ended the
    attempt may have ended them first.

    Args:
        store: the run directory.
        files: the shard's result files.
        items: the shard's items, in order.
        history: what is known of the files beside what they hold.
        first: the position that is begun at.
        end: the position after the last one that is wanted; the shard's end where unset.
        durable: whether somebody will vouch for the parts, so that they are made durable.

    Returns:
        Parts for the receipt, vouched for by their checksums.
    """
    seen: list[TrustedExtent] = []
    chosen: list[TrustedExtent] = []
    end = len(items) if end is None else end
    reached = first
    for file in sorted(files, key=lambda f: f.first):
        if _name(file) in history.damaged:
            continue
        reach = _scan(store, file, items, history)
        seen.append(reach)
        # A part is the beginning of a file, so one that begins before `first` can only be copied.
        if first <= file.first <= reached < min(reach.unbroken, end):
            while chosen and chosen[-1].file.first >= file.first:
                chosen.pop()
            chosen.append(reach)
            reached = min(reach.unbroken, end)
    parts, errors = [], 0
    for i, (file, unbroken, *_) in enumerate(chosen):
        if durable:
            # Its writer may have died before its own sync, or the sync have failed. What is
            # measured afterwards is what the disk holds.
            store.make_durable(layout.result(*file))
        stop = chosen[i + 1].file.first if i + 1 < len(chosen) else min(unbroken, end)
        part, failed = _measure(store, file, stop - file.first, items)
        parts.append(part)
        errors += failed
    later = [reach for reach in seen if reach.end > reached]
    return Salvage(parts, reached - first, errors, later, reached)


def later_lines(
    store: Store, salvaged: Salvage, items: Sequence[Any]
) -> Iterator[tuple[bytes, bool] | None]:
    """For each position behind the salvaged parts: a good line of a predecessor, or None.

    A line comes with whether it is an error record. All files are read side by side, so that the
    lines of a large shard are never in memory together.
    """
    if not salvaged.later:
        return itertools.repeat(None)
    return _side_by_side(store, salvaged, items)


def _side_by_side(
    store: Store, salvaged: Salvage, items: Sequence[Any]
) -> Iterator[tuple[bytes, bool] | None]:
    waiting = sorted(salvaged.later, key=lambda reach: reach.file.first, reverse=True)
    with contextlib.ExitStack() as stack:
        current: list[Iterator[tuple[bytes, bool] | None]] = []
        for position in range(salvaged.reached, len(items)):
            while waiting and waiting[-1].file.first <= position:
                more = _good_lines(store, waiting.pop(), items, position)
                current.append(stack.enter_context(contextlib.closing(more)))
            best = None
            for lines in tuple(current):
                try:
                    found = next(lines)
                except StopIteration:
                    current.remove(lines)
                    continue
                if found is not None and (best is None or best[1]):
                    best = found  # another copy's result rather than an error
            yield best


def _good_lines(
    store: Store, reach: TrustedExtent, items: Sequence[Any], start: int
) -> Generator[tuple[bytes, bool] | None, None, None]:
    """A file's lines from a position on, None where a line is not good."""
    lines = valid_lines(store, reach.file, items)
    first = reach.file.first
    for line, is_error in itertools.islice(lines, start - first, reach.end - first):
        yield (line, is_error) if reach.errors or not is_error else None


def _scan(
    store: Store, file: layout.ResultFile, items: Sequence[Any], history: ReceiptHistory
) -> TrustedExtent:
    """Read a file to find how far it is believed."""
    vouched = history.vouched.get(_name(file), 0)
    errors_count = layout.submission_of(file.attempt) >= history.errors_from
    unbroken = end = file.first
    whole = True
    for position, (_, is_error) in enumerate(valid_lines(store, file, items), file.first + 1):
        if not is_error or (errors_count and position <= vouched):
            end = position
            if whole:
                unbroken = position
        elif not errors_count:
            whole = False
    return TrustedExtent(file, unbroken, end, errors_count)


def valid_lines(
    store: Store, file: layout.ResultFile, items: Sequence[Any]
) -> Iterator[tuple[bytes, bool]]:
    """The file's lines, with whether each is an error record, up to the first invalid one."""
    try:
        stream = store.open(layout.result(*file))
    except FileMissing:
        return
    position = file.first
    with mapped(store.locate(layout.result(*file))), stream:
        for line in _lines(stream):
            if position >= len(items) or not line.endswith(b"\n"):
                return
            try:
                record = orjson.loads(line)
                valid = record["item"] == items[position] and len(record) == 2
                if "error" in record:
                    ErrorRecord.model_validate(record["error"])
            except (ValueError, KeyError, TypeError):
                return
            if not valid or not record.keys() & {"result", "error", "pickle"}:
                return
            yield line, "error" in record
            position += 1


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """The lines of a file up to what is none: a hole, or more than any line has.

    Either may be larger than the memory of this host.
    """
    while piece := stream.readline(PIECE):
        pieces, size = [piece], len(piece)
        while b"\0" not in piece and not piece.endswith(b"\n") and size <= MAX_LINE:
            piece = stream.readline(PIECE)
            pieces.append(piece)
            size += len(piece)
            if not piece:
                break
        if b"\0" in piece or size > MAX_LINE:
            return
        yield b"".join(pieces)


def _measure(
    store: Store, file: layout.ResultFile, records: int, items: Sequence[Any]
) -> tuple[ResultPart, int]:
    """The part made of a file's first `records` lines, and how many of them are errors."""
    found, size, lines, errors = Checksum(), 0, 0, 0
    for line, failed in itertools.islice(valid_lines(store, file, items), records):
        found.update(line)
        size += len(line)
        lines += 1
        errors += failed
    if lines != records:
        path = store.locate(layout.result(*file))
        raise StoreError(path, f"has {lines} good records, and had {records} a moment ago")
    part = ResultPart(
        file=_name(file),
        first=file.first,
        records=records,
        bytes=size,
        checksum=str(found),
    )
    return part, errors


def _name(file: layout.ResultFile) -> str:
    return layout.result(*file).rpartition("/")[2]
