"""Gathering the results of a run: complete, verified, in the items' order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, overload

from espnet3.collect.forms import write
from espnet3.collect.result_parts import Shard, Vouched, take_in_turn
from espnet3.collect.vouching import Errors, vouch
from espnet3.collect.written import merge_vouched
from espnet3.errors import InvalidFile
from espnet3.run_dir.output_names import require_form, require_outside
from espnet3.run_dir.result_lines import MAX_LINE, ResultRecord, decode_line, decode_results
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import PATIENCE, line_blocks, require_line, stopping
from espnet3.specs.models import ResultPart
from espnet3.storage.opening import absolute_root
from espnet3.text import counted
from espnet3.user_code.main_module import main_of

CHUNK = 4096  # records that are decoded between two looks at the event loop


@dataclass(frozen=True, slots=True)
class Collected:
    """What was written to a file.

    Attributes:
        output: the file.
        records: how many lines.
        left_out: rank -> state and cause, for every shard of which `partial` left something out.
        errors: how many lines are items that failed and were recorded, or were passed over.
        missing: positions among the run's items of those that were left out, in order: each time
            that of the first one, and that after the last one.
        skipped: how many of `errors` were passed over (`resume --skip`).
    """

    output: str
    records: int
    left_out: dict[int, str]
    errors: int
    missing: list[tuple[int, int]]
    skipped: int = 0


@overload
async def collect(
    run_dir: str | os.PathLike[str],
    output: None = None,
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> Any: ...


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
) -> Any:
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
        only once it is complete. Of a runner that writes its results itself, what its `merge`
        returns, which is called in a process of its own.

    Raises:
        IncompleteRun: shards have no receipt; names them and their causes.
        DamagedResult: a result file is not what its receipt vouched for, or the receipt itself is
            damaged; `resume` with `repair` computes it again.
        FailedItems: items failed and were recorded.
        RunDirectoryError: it is not a run directory.
        Untrusted: results are pickled, or `merge` is to be called, and others could have written
            them, or the run directory.
        UsageError: `output` is a name that belongs to the run itself, has the suffix of no form,
            needs a library that is not installed, or cannot hold these results; or `merge` is to
            make the output.
        WriterFailed: `merge` raised.

    Example:
        >>> results = await collect("/shared/decode")                    # doctest: +SKIP
        >>> await collect("/shared/decode", "s3://bucket/hyp.jsonl")      # doctest: +SKIP
    """
    if output is not None:
        require_outside(absolute_root(run_dir), os.fspath(output))
        require_form(os.fspath(output))
    with stopping() as stop:
        merges = output is None
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop, merges=merges)
        if vouched.run.writers is not None:
            return (await merge_vouched(vouched, trust)).value
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
        vouched.skipped,
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
            raise InvalidFile(where, "", f"hold {counted(found, 'record')}, not {part.records}")

    take_in_turn(vouched, decode)
    return results
