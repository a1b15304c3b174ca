"""The end of a run: results collected, and the record of it written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet3.collect.merge import Collected, collect
from espnet3.collect.written import Merged, merge_written
from espnet3.config.finish import Finish
from espnet3.errors import DamagedResult, FileTaken, StoreError, UsageError, WorkError
from espnet3.finish.rules import End
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.finishing import (
    MOST_UNFINISHED,
    Finished,
    UnfinishedShard,
    Wave,
    WaveSummary,
)
from espnet3.specs.models import now
from espnet3.status.finishing import words_of
from espnet3.status.observation import Observation
from espnet3.submit.finishers import results_of
from espnet3.text import cut, one_line

log = logging.getLogger("espnet3.finish")
_PAUSES = 1.0, 4.0  # seconds after which a file that cannot be written is tried again


class _Merged(NamedTuple):
    """The collected file."""

    output: str | None = None
    records: int = 0
    errors: int = 0
    skipped: int = 0


async def bring_to_end(
    seen: Observation, end: End, finish: Finish, waves: Sequence[Wave], finisher: int, number: int
) -> Finished:
    """Collect what is done, where all is, and write down that the run is over.

    Args:
        seen: what is known of the run.
        end: why it is over.
        finish: as configured.
        waves: those since the last end.
        finisher: the number of who decided.
        number: the end's.

    Returns:
        What is written; another finisher's, where that was first.

    Raises:
        StoreError: the record cannot be written.
    """
    directory, merged = seen.directory, _Merged()
    if end.outcome == "done":
        output = results_of(directory.root, seen.run, finish)
        try:
            merged = await _merge(directory, None if seen.run.writers else output)
        except (DamagedResult, StoreError, UsageError, WorkError) as error:
            end = End("incomplete", f"the results cannot be collected: {one_line(str(error))}")
    record = Finished(
        number=number,
        finisher=finisher,
        created=now(),
        by=this_process(),
        outcome=end.outcome,
        cause=cut(end.cause),
        results=merged.output,
        records=merged.records,
        errors=merged.errors,
        skipped=merged.skipped,
        n_shards=seen.run.world_size,
        n_done=len(seen.receipts),
        unfinished=_unfinished(seen, end.left),
        waves=[WaveSummary(number=wave.number, words=words_of(wave)) for wave in waves],
    )
    return await asyncio.to_thread(_publish, directory, record)


async def _merge(directory: RunDirectory, output: str | None) -> _Merged:
    """Collect; where that cannot be written, somebody has to be told, but not of a moment's fault.

    Args:
        directory: the run directory.
        output: the file for the results; None where the runner's own `merge` makes the output.

    Raises:
        DamagedResult, StoreError, UsageError, WorkError: as `collect`.
    """
    for pause in (*_PAUSES, None):
        try:
            found = await _collect(directory, output)
        except StoreError as error:
            if pause is None:
                raise
            log.warning("%s; tried again", error)
            await asyncio.sleep(pause)
        else:
            break
    return _Merged(found.output, found.records, found.errors, found.skipped)


async def _collect(directory: RunDirectory, output: str | None) -> Collected | Merged:
    root, trust = directory.root, directory.trust
    if output is None:
        return await merge_written(root, errors="keep", trust=trust)
    return await collect(root, output, errors="keep", trust=trust)


def _publish(directory: RunDirectory, record: Finished) -> Finished:
    try:
        directory.publish(record)
    except FileTaken:
        return directory.read(Finished, layout.finished(record.number))
    return record


def _unfinished(seen: Observation, left: Mapping[int, str]) -> list[UnfinishedShard]:
    found = []
    for rank in sorted(left)[:MOST_UNFINISHED]:
        shard = seen.status.shards[rank]
        found.append(UnfinishedShard(rank=rank, state=shard.state, cause=cut(left[rank])))
    return found
