"""Where one item of a run is: its shard, the attempt that computed it, what was recorded of it."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from espnet3.errors import EspnetError, FileMissing, InvalidFile
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.item_words import WantedItem, wanted_item
from espnet3.run_dir.reading import read_persisted
from espnet3.specs import layout
from espnet3.specs.items import batched
from espnet3.specs.models import AttemptRecord, ErrorRecord, RunSpec
from espnet3.storage.base import mapped


class FoundItem(NamedTuple):
    """Where an item is, and what became of it.

    Attributes:
        item: the item.
        rank: the shard that holds it.
        position: its position there.
        attempt: name of the attempt that computed it, or failed at it; None where none has.
        state: `done` where a result of it is durable, `failed` where an error is recorded or an
            attempt ended at it, else `missing`.
        error: what it failed with.
    """

    item: Any
    rank: int
    position: int
    attempt: str | None
    state: str
    error: ErrorRecord | None


async def find_item(run_dir: str | os.PathLike[str], word: str) -> FoundItem:
    """Find an item of a run.

    Args:
        run_dir: the run directory.
        word: its value, or `@` and its position in the run; see `espnet3.run_dir.item_words`.

    Raises:
        RunDirectoryError: it is not a run directory.
        UsageError: it has no such item.
    """
    return await asyncio.to_thread(_find, run_dir, wanted_item(word))


def _find(run_dir: str | os.PathLike[str], wanted: WantedItem) -> FoundItem:
    directory = RunDirectory.open(run_dir)
    run = directory.run()
    before = 0
    for rank in range(run.world_size):
        n_items = run.n_items_of(rank)
        if wanted.position is not None and wanted.position >= before + n_items:
            before += n_items  # most shards need not be read
            continue
        items = batched(directory.shard(run, rank).items, run.batch_size)
        position = wanted.position_in(items, before)
        if position is not None:
            return _fate(directory, run, rank, position, items[position])
        before += n_items
    raise wanted.missing(f"the run {directory.root}", before)


def _fate(directory: RunDirectory, run: RunSpec, rank: int, position: int, item: Any) -> FoundItem:
    for file in _files_with(directory, run, rank, position):
        line = _line(directory, file, position)
        if line is None:
            continue
        error = _error_in(line, directory.store.locate(layout.result(*file)))
        state = "done" if error is None else "failed"
        return FoundItem(item, rank, position, file.attempt, state, error)
    for record in _failures(directory, rank):
        if record.item == item and item is not None:
            return FoundItem(item, rank, position, record.attempt, "failed", record.error)
    return FoundItem(item, rank, position, None, "missing", None)


def _files_with(
    directory: RunDirectory, run: RunSpec, rank: int, position: int
) -> Iterator[layout.ResultFile]:
    """Files that may hold a position: the one that a receipt names, else those of all attempts."""
    generation = directory.receipts(run.world_size).done.get(rank)
    if generation is not None:
        for part in directory.receipt(run, rank, generation).parts:
            file = layout.parse_result(part.file)
            if file is not None and part.first <= position < part.first + part.records:
                yield file
                return
    names = directory.store.names(layout.RESULTS)
    found = [file for file in map(layout.parse_result, names) if file is not None]
    newest = sorted(found, key=lambda file: file.attempt, reverse=True)
    yield from (file for file in newest if file.rank == rank and file.first <= position)


def _line(directory: RunDirectory, file: layout.ResultFile, position: int) -> bytes | None:
    """The line of a position; None where the file ends before."""
    path = layout.result(*file)
    try:
        with mapped(directory.store.locate(path)), directory.store.open(path) as stream:
            line = next(itertools.islice(stream, position - file.first, None), None)
    except FileMissing:
        return None
    return line if line is not None and line.endswith(b"\n") else None


def _error_in(line: bytes, where: str) -> ErrorRecord | None:
    """What a result line says that the item failed with; the result itself stays as it is."""
    if b'"error"' not in line:
        return None
    try:
        raw = orjson.loads(line)
        return ErrorRecord.model_validate(raw["error"]) if "error" in raw else None
    except (ValueError, TypeError) as error:
        raise InvalidFile(where, "", f"holds a line that is not a result: {error}") from None


def _failures(directory: RunDirectory, rank: int) -> list[AttemptRecord]:
    """What a shard's attempts say of their failures, newest first."""
    store, found = directory.store, []
    for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS)):
        if file is None or file.rank != rank or file.event != "failed":
            continue
        try:
            found.append(read_persisted(store, AttemptRecord, layout.attempt_record(*file)))
        except EspnetError:
            continue  # the others may tell
    return sorted(found, key=lambda record: record.time, reverse=True)
