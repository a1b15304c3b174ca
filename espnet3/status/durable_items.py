"""Which items of shards without a receipt have a result by now, as the result files tell it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import MAX_LINE
from espnet3.run_dir.salvage import list_results
from espnet3.run_dir.skipped import Skips
from espnet3.run_dir.written_salvage import takes_over
from espnet3.specs import layout
from espnet3.specs.layout import ResultFile
from espnet3.specs.models import RunSpec, Withdrawal
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather

_READERS = 8  # threads
_BLOCK = 1 << 20  # bytes
_LONGEST_ERROR = 1 << 24  # bytes of a line that is looked at for an error


class Start(NamedTuple):
    """The attempt that is at a shard.

    Attributes:
        attempt: its name.
        record: path of the record that it has begun.
        first: position in the shard from which on it looks for what is missing.
    """

    attempt: str
    record: str
    first: int


class ShardItems(NamedTuple):
    """The items of a shard without a receipt.

    Attributes:
        done: how many have a result.
        errors: how many of these are recorded errors.
        position: of the item that the attempt is at; None unless the shard is being computed.
        written: when its last result came, else when the attempt began, in seconds since 1970;
            None where nothing tells.
        per_second: how many items a second the attempt has come on so far; None as `written`.
        skipped: how many of the errors stand for items that were passed over.
    """

    done: int
    errors: int = 0
    position: int | None = None
    written: float | None = None
    per_second: float | None = None
    skipped: int = 0


class _Read:
    """What was read of a result file."""

    __slots__ = ("errors", "lines", "offset", "written")

    def __init__(self) -> None:
        self.offset, self.lines = 0, 0  # bytes of whole lines, and these
        self.errors: list[int] = []  # positions in the shard
        self.written: float | None = None


class Stretch(NamedTuple):
    """What one file or attempt holds: positions in the shard, and which of them are errors.

    `skips` are those at which an error stands for an item that was passed over.
    """

    first: int
    end: int
    errors: Collection[int] = frozenset()
    errors_count: bool = True
    skips: Collection[int] = frozenset()


class DurableItems:
    """Finds them; each result file is read once, however often a run is looked at.

    A file is read on from where the last look ended. Where each checkpoint is a file of its own,
    names tell positions, and only the last one of an attempt is read; errors are not counted there.
    """

    def __init__(self) -> None:
        self._read: dict[ResultFile, _Read] = {}
        self._began: dict[str, float | None] = {}
        self._withdrawals: dict[tuple[int, int], Withdrawal | None] = {}

    def look(
        self,
        directory: RunDirectory,
        run: RunSpec,
        begun: Mapping[int, int],
        starts: Mapping[int, Start],
        *,
        errors: bool,
        errors_from: Callable[[int], int],
        skips: Skips,
    ) -> dict[int, ShardItems]:
        """Find them.

        Args:
            directory: the run directory.
            run: its run.json.
            begun: rank -> generation of the receipt to come, of the shards that may hold some.
            starts: rank -> the attempt that is at it, of those that are being computed.
            errors: whether there may be recorded errors.
            errors_from: rank -> number of the submission from which on errors count.
            skips: what the submissions pass over.

        Returns:
            Rank -> its items, for those of which anything is known.
        """
        store, whole = directory.store, directory.store.can_append
        listed = list_results(store)
        files: dict[int, list[ResultFile]] = {}
        old_errors: dict[int, int] = {}
        for rank, generation in begun.items():
            damaged, withdrawn_from = self._of_withdrawals(directory, rank, generation)
            old_errors[rank] = max(withdrawn_from, errors_from(rank)) if errors else 0
            own = [f for f in listed.get(rank, ()) if _name(f) not in damaged]
            files[rank] = own if run.writers is None else _of_writers(run, store, own, starts)

        def read(file: ResultFile) -> None:
            most = run.n_items_of(file.rank) - file.first
            all_are_read = whole or bool(old_errors[file.rank])
            with contextlib.suppress(EspnetError, OSError):  # a hint; who needs it will say so
                self._read_on(
                    store, file, most, errors=errors and all_are_read, dated=file.rank in starts
                )

        wanted = [
            file
            for rank, own in files.items()
            for file in (own if whole or old_errors[rank] else _last_parts(own))
            if whole or file not in self._read
        ]
        gather(read, wanted, _READERS)
        found = {}
        for rank, own in files.items():
            at_work = None if (start := starts.get(rank)) is None else start.attempt
            stretches = self._stretches(own, old_errors[rank], at_work, skips)
            items = union(stretches)
            if start is not None:
                items = self._at_work(store, items, start, own, stretches)
            if items.done or items.written is not None:
                found[rank] = items
        return found

    def _of_withdrawals(
        self, directory: RunDirectory, rank: int, generation: int
    ) -> tuple[set[str], int]:
        """Result files of which nothing counts, and from which submission on errors do."""
        damaged: set[str] = set()
        errors_from = 0
        for earlier in range(1, generation):
            if (rank, earlier) not in self._withdrawals:
                found = None
                with contextlib.suppress(EspnetError):
                    found = directory.read(Withdrawal, layout.withdrawal(rank, earlier))
                self._withdrawals[rank, earlier] = found
            if (record := self._withdrawals[rank, earlier]) is not None:
                damaged.update(record.files)
                errors_from = max(errors_from, record.from_submission)
        return damaged, errors_from

    def _read_on(
        self, store: Store, file: ResultFile, most: int, *, errors: bool, dated: bool
    ) -> None:
        """Read a file from where the last look ended, up to what is no whole line."""
        seen = self._read.get(file)
        known, before = seen is not None, 0 if seen is None else seen.lines
        seen = seen or _Read()
        path = layout.result(*file)
        with store.open(path) as stream:
            stream.seek(seen.offset)
            rest, size = b"", 0
            while seen.lines < most and size <= MAX_LINE and (block := stream.read(_BLOCK)):
                hole = block.find(b"\0")  # a sparse file may claim anything
                block = block if hole < 0 else block[:hole]
                end = block.rfind(b"\n") + 1
                if end:
                    lines = rest + block[:end]
                    position = file.first + seen.lines
                    if errors and b'"error"' in lines:
                        each = enumerate(lines.split(b"\n"), position)
                        seen.errors += [place for place, line in each if _is_error(line)]
                    seen.lines += lines.count(b"\n")
                    seen.offset += size + end
                    rest, size = b"", 0
                size += len(block) - end
                keep = errors and size <= _LONGEST_ERROR
                rest = rest + block[end:] if keep else b""
                if hole >= 0:
                    break
        seen.lines = min(seen.lines, most)
        if known and seen.lines > before:
            seen.written = time.time()
        elif dated and seen.written is None:
            seen.written = store.modified(path)
        self._read[file] = seen

    def _stretches(
        self, files: Iterable[ResultFile], errors_from: int, at_work: str | None, skips: Skips
    ) -> list[Stretch]:
        found = []
        for own in _by_attempt(files).values():
            for file, after in zip(own, [*own[1:], None], strict=True):
                seen = self._read.get(file)
                if seen is None:  # a part that another one follows
                    found += [] if after is None else [Stretch(file.first, after.first)]
                    continue
                end, n = file.first + seen.lines, len(seen.errors)
                if file.attempt != at_work:  # what ended the attempt may have ended these first
                    while n and seen.errors[n - 1] == end - 1:
                        end, n = end - 1, n - 1
                counts = layout.submission_of(file.attempt) >= errors_from
                own_skips = skips.of(file.attempt, file.rank)
                found.append(
                    Stretch(file.first, end, frozenset(seen.errors[:n]), counts, own_skips)
                )
        return found

    def _at_work(
        self,
        store: Store,
        items: ShardItems,
        start: Start,
        files: Sequence[ResultFile],
        stretches: Sequence[Stretch],
    ) -> ShardItems:
        """The same with where the attempt is, since when, and how fast it came there."""
        if start.record not in self._began:
            self._began[start.record] = None
            with contextlib.suppress(EspnetError):
                self._began[start.record] = store.modified(start.record)
        began = self._began[start.record]
        times = [began, *(self._read[file].written for file in files if file in self._read)]
        written = max(filter(None, times), default=None)
        own = [file for file in files if file.attempt == start.attempt and file in self._read]
        if not own:
            return items._replace(position=reached(stretches, start.first), written=written)
        newest = max(own, key=lambda file: file.first)
        seen = self._read[newest]
        position = reached(stretches, newest.first + seen.lines)
        pace = None
        if began is not None and seen.written is not None and seen.written > began:
            n = newest.first + seen.lines - min(file.first for file in own)
            pace = n / (seen.written - began)
        return items._replace(position=position, written=written, per_second=pace)


def _of_writers(
    run: RunSpec, store: Store, files: Sequence[ResultFile], starts: Mapping[int, Start]
) -> list[ResultFile]:
    """Of a shard whose runner writes: what its attempt has, which holds what it took over, too.

    Where there is none, what the next one may go on from.
    """
    start = starts.get(files[0].rank) if files else None
    if start is not None:
        return [file for file in files if file.attempt == start.attempt]
    return [*files] if takes_over(run, store) else []


def union(stretches: Sequence[Stretch]) -> ShardItems:
    """How many items some files hold together, and how many of these failed in each that counts.

    Example:
        >>> union([Stretch(0, 4, {3}), Stretch(3, 6)])
        ShardItems(done=6, errors=0, position=None, written=None, per_second=None, skipped=0)
    """
    done = end = 0
    for stretch in sorted(stretches, key=lambda stretch: stretch.first):
        done += max(0, stretch.end - max(end, stretch.first))
        end = max(end, stretch.end)
    failed = skipped = 0
    for position in {position for stretch in stretches for position in stretch.errors}:
        there = [stretch for stretch in stretches if stretch.first <= position < stretch.end]
        if not there or any(position not in stretch.errors for stretch in there):
            continue
        counts = any(stretch.errors_count for stretch in there)
        failed += counts
        skipped += counts and any(position in stretch.skips for stretch in there)
        done -= not counts
    return ShardItems(done, failed, skipped=skipped)


def reached(stretches: Iterable[Stretch], first: int) -> int:
    """The first position from one on that none of some files holds."""
    for stretch in sorted(stretches, key=lambda stretch: stretch.first):
        if stretch.first <= first < stretch.end:
            first = stretch.end
    return first


def _last_parts(files: Iterable[ResultFile]) -> list[ResultFile]:
    return [own[-1] for own in _by_attempt(files).values()]


def _by_attempt(files: Iterable[ResultFile]) -> dict[str, list[ResultFile]]:
    found: dict[str, list[ResultFile]] = {}
    for file in sorted(files, key=lambda file: file.first):
        found.setdefault(file.attempt, []).append(file)
    return found


def _name(file: ResultFile) -> str:
    return layout.result(*file).rpartition("/")[2]


def _is_error(line: bytes) -> bool:
    if b'"error"' not in line:
        return False
    try:
        return "error" in orjson.loads(line)
    except (ValueError, TypeError):
        return False
