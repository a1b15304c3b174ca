"""Gathering the results of a run: complete, verified, in the items' order."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NamedTuple, overload

from espnet3.collect.forms import write
from espnet3.collect.result_parts import Shard, Vouched, take_in_turn
from espnet3.collect.unfinished import (
    Positions,
    Unfinished,
    add_positions,
    positions_in_words,
    read_unfinished,
)
from espnet3.config.current import chosen_policy
from espnet3.errors import (
    FailedItems,
    IncompleteRun,
    InvalidFile,
)
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.output_names import require_form, require_outside
from espnet3.run_dir.result_lines import MAX_LINE, ResultRecord, decode_line, decode_results
from espnet3.run_dir.skipped import Skips, read_skipped
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import (
    PATIENCE,
    line_blocks,
    patiently,
    require_line,
    stopping,
)
from espnet3.specs import layout
from espnet3.specs.models import Receipt, ResultPart, RunSpec
from espnet3.status.observation import Observation, observe
from espnet3.storage.concurrency import gather
from espnet3.storage.opening import absolute_root
from espnet3.text import visible
from espnet3.user_code.main_module import main_of

READERS = 8  # threads that read receipts
CHUNK = 4096  # records that are decoded between two looks at the event loop

Errors = Literal["raise", "keep"]


class PartialResults(UserWarning):
    """Items were left out of what was collected, as `partial` allows."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What was written to a file.

    Attributes:
        output: the file.
        records: how many lines.
        left_out: rank -> state and cause, for every shard of which `partial` left something out.
        errors: how many lines are items that failed and were recorded.
        missing: positions among the run's items of those that were left out, in order: each time
            that of the first one, and that after the last one.
    """

    output: str
    records: int
    left_out: dict[int, str]
    errors: int
    missing: list[tuple[int, int]]


@overload
async def collect(
    run_dir: str | os.PathLike[str],
    output: None = None,
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> list[Any]: ...


@overload
async def collect(
    run_dir: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> Collected: ...


async def collect(
    run_dir: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> list[Any] | Collected:
    """Gather the results of a run, in the items' order.

    Args:
        run_dir: the run directory.
        output: a path or fsspec URL for a file; its suffix (`.jsonl`, `.jsonl.gz`, `.jsonl.zst`,
            `.csv`, `.parquet`, `.arrow`) says in which form, and missing folders are made. A list
            is returned where unset.
        partial: take what there is, also of shards that are not done, and warn about the rest.
        errors: what to do about items that `on_error: record` recorded: `raise`, or `keep` them in
            their places (an ErrorRecord in a list; in a file a line with `error`, or a row with a
            column `error`).
        patience: seconds for which files that do not match their receipts may still be on their
            way through a network file system.
        trust: whose run directories are believed where results are pickled, as in the parallel
            config; what `set_parallel` set where unset.

    Returns:
        The results, as local mode would return them; or what was written to `output`, which exists
        only once it is complete.

    Raises:
        IncompleteRun: shards have no receipt; names them and their causes.
        DamagedResult: a result file is not what its receipt vouched for, or the receipt itself is
            damaged; `resume` with `repair` computes it again.
        FailedItems: items failed and were recorded.
        RunDirectoryError: it is not a run directory.
        Untrusted: results are pickled, and others could have written them.
        UsageError: `output` is a name that belongs to the run itself, has the suffix of no form,
            needs a library that is not installed, or cannot hold these results.

    Example:
        >>> results = await collect("/shared/decode")                    # doctest: +SKIP
        >>> await collect("/shared/decode", "s3://bucket/hyp.jsonl")      # doctest: +SKIP
    """
    if output is not None:
        require_outside(absolute_root(run_dir), os.fspath(output))
        require_form(os.fspath(output))
    with stopping() as stop:
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop)
        if output is not None:
            output = os.fspath(output)
        return await asyncio.to_thread(_merge, vouched, output)


async def stream(
    run_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> AsyncIterator[ResultRecord]:
    """The records of a run one by one, in the items' order and in constant memory.

    Each part of the results is verified before its first record is given out. Arguments and errors
    are those of `collect`.

    Yields:
        Records with `item`, `result` and `error` (None unless the item failed).

    Example:
        >>> async for record in stream("/shared/decode"):  # doctest: +SKIP
        ...     print(record.item, record.result)
    """
    chunks = stream_chunks(run_dir, partial=partial, errors=errors, patience=patience, trust=trust)
    async for chunk in chunks:
        for record in chunk:
            yield record


async def stream_chunks(
    run_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> AsyncIterator[list[ResultRecord]]:
    """As `stream`, in lists of records."""
    with stopping() as stop:
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop)
        chunks = _chunks(vouched)
        while chunk := await asyncio.to_thread(next, chunks, None):
            yield chunk


async def vouch(
    run_dir: str | os.PathLike[str],
    partial: bool,
    errors: Errors,
    patience: float,
    trust: Trust | None,
    stop: threading.Event,
) -> Vouched:
    """Read all receipts and check that the run may be merged."""
    call = _Call(run_dir, partial, errors, patience, chosen_policy(trust), stop)
    vouched = await asyncio.to_thread(call.look)
    if isinstance(vouched, RunDirectory):
        vouched = await observe(vouched, call.conclude)
    if vouched.missing:
        n = sum(end - first for first, end in vouched.missing)
        left = f"{n} of {vouched.run.n_items} items are left out"
        where = f"those at {positions_in_words(vouched.missing)}"
        of = f"of shards {positions_in_words([(rank, rank + 1) for rank in vouched.left_out])}"
        words = visible(f"{vouched.store.root}: {left}, {where}, {of}")
        warnings.warn(words, PartialResults, stacklevel=3)
    return vouched


class _Call(NamedTuple):
    """What results are asked for, and what of them is read before the first is given out."""

    run_dir: str | os.PathLike[str]
    partial: bool
    errors: Errors
    patience: float
    policy: Trust | None
    stop: threading.Event

    def look(self) -> Vouched | RunDirectory:
        """All that is vouched for; where shards are not done, the directory to look closer at."""
        directory = RunDirectory.open(self.run_dir, self.policy)
        run = directory.run()
        done = directory.receipts(run.world_size).done
        if len(done) == run.world_size:
            return self._vouched(directory, run, done)
        directory.store.refresh(layout.RECEIPTS)
        return directory

    def conclude(self, seen: Observation) -> Vouched:
        """What is vouched for of a run of which shards were not done."""
        left_out = seen.status.unfinished()
        if left_out and not self.partial:
            raise IncompleteRun(seen.directory.root, seen.run.world_size, left_out)
        ranks = [rank for rank in range(seen.run.world_size) if rank not in seen.receipts]
        there = read_unfinished(seen.directory, seen.run, ranks, seen.submissions)
        vouched = self._vouched(seen.directory, seen.run, seen.receipts, there)
        lacking = {shard.rank for shard in there if shard.missing}
        left_out = {rank: words for rank, words in left_out.items() if rank in lacking}
        missing: list[Positions] = []
        for shard in there:
            for positions in shard.missing:
                add_positions(missing, positions)
        return vouched._replace(left_out=left_out, missing=missing)

    def _vouched(
        self,
        directory: RunDirectory,
        run: RunSpec,
        done: Mapping[int, int],
        unfinished: Sequence[Unfinished] = (),
    ) -> Vouched:
        receipts = _read_receipts(directory, run, done, self.patience, self.stop)
        shards: list[Shard] = [*receipts]
        if unfinished:
            shards = sorted([*shards, *unfinished], key=lambda shard: shard.rank)
        if run.results == "pickle":
            _require_trusted(directory, run, shards)
        failed = [shard for shard in shards if shard.errors]
        if failed and self.errors == "raise":
            raise _failed_items(directory, failed)
        return Vouched(directory.store, run, shards, {}, [], self.patience, self.stop)


def _failed_items(directory: RunDirectory, failed: Sequence[Shard]) -> FailedItems:
    """What is raised where items failed, or were passed over."""
    ranks = Skips.read(directory.submissions().known).ranks
    skipped = sum(
        read_skipped(directory.store, shard.rank, shard.parts)
        for shard in failed
        if shard.rank in ranks
    )
    count = sum(shard.errors for shard in failed)
    return FailedItems(directory.root, count, [shard.rank for shard in failed], skipped)


def _require_trusted(directory: RunDirectory, run: RunSpec, shards: Sequence[Shard]) -> None:
    """Refuse to unpickle what others could have written."""
    directory.trust_at_most(run.parallel)
    files = {
        file
        for shard in shards
        for file in (
            shard.files if isinstance(shard, Unfinished) else [part.file for part in shard.parts]
        )
    }
    directory.require_trusted(f"{layout.RESULTS}/{file}" for file in sorted(files))
    directory.require_scripts(run)


def _read_receipts(
    directory: RunDirectory,
    run: RunSpec,
    done: Mapping[int, int],
    patience: float,
    stop: threading.Event,
) -> list[Receipt]:
    """All receipts, in the order of their ranks."""

    def read(rank: int) -> Receipt:
        try:
            return patiently(lambda: directory.receipt(run, rank, done[rank]), patience, stop)
        except BaseException:
            stop.set()  # one that is missing is reason enough
            raise

    return gather(read, sorted(done), READERS)


def _lines(vouched: Vouched, shard: Shard) -> Iterator[bytes]:
    """The verified lines of a shard."""
    for part in shard.parts:
        with vouched.open(shard, part) as file:
            for _ in range(part.records):
                line = file.readline(MAX_LINE + 1)
                require_line(len(line), f"results of shard {shard.rank}")
                yield line


def _records(vouched: Vouched, shard: Shard) -> Iterator[ResultRecord]:
    unpickle, main = vouched.run.results == "pickle", main_of(vouched.run)
    where = f"results of shard {shard.rank}"
    for line in _lines(vouched, shard):
        yield decode_line(line, where, unpickle=unpickle, main=main)


def _chunks(vouched: Vouched) -> Iterator[list[ResultRecord]]:
    chunk: list[ResultRecord] = []
    for shard in vouched.shards:
        for record in _records(vouched, shard):
            chunk.append(record)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    yield chunk


def _merge(vouched: Vouched, output: str | None) -> list[Any] | Collected:
    """All verified results, as a list or in a file."""
    if output is None:
        return _list(vouched)
    write(vouched, output)
    return collected(vouched, output)


def collected(vouched: Vouched, output: str) -> Collected:
    """What was written, once it is."""
    return Collected(
        output,
        sum(shard.records for shard in vouched.shards),
        vouched.left_out,
        sum(shard.errors for shard in vouched.shards),
        vouched.missing,
    )


def _list(vouched: Vouched) -> list[Any]:
    """All verified results, decoded."""
    unpickle, main = vouched.run.results == "pickle", main_of(vouched.run)
    results: list[Any] = []

    def decode(shard: Shard, part: ResultPart, source: BinaryIO) -> None:
        where, before = f"results of shard {shard.rank}", len(results)
        for lines in line_blocks(source, part.bytes, where):
            vouched.require_wanted()
            results.extend(decode_results(lines, where, unpickle=unpickle, main=main))
        if (found := len(results) - before) != part.records:
            raise InvalidFile(where, "", f"hold {found} records, not {part.records}")

    take_in_turn(vouched, decode)
    return results
