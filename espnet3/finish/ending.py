"""The end of a run: results collected, the record of it written, the user told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet3.collect.merge import collect
from espnet3.config.finish import Finish
from espnet3.errors import DamagedResult, FileTaken, UsageError
from espnet3.finish.rules import End
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.finishing import (
    MOST_UNFINISHED,
    Finished,
    Notified,
    UnfinishedShard,
    Wave,
    WaveSummary,
)
from espnet3.specs.models import now
from espnet3.status.finishing import in_words, words_of
from espnet3.status.observation import Observation
from espnet3.text import cut, one_line

log = logging.getLogger("espnet3.finish")
NOTIFY_TIMEOUT = 600.0  # seconds


class _Merged(NamedTuple):
    """The collected file."""

    output: str | None = None
    records: int = 0
    errors: int = 0


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
        StoreError: results or record cannot be written.
    """
    directory, merged = seen.directory, _Merged()
    if end.outcome == "done":
        output = finish.collect or f"{directory.root.rstrip('/')}/{layout.COLLECTED}"
        try:
            found = await collect(directory.root, output, errors="keep", trust=directory.trust)
        except (DamagedResult, UsageError) as error:
            end = End("incomplete", f"the results cannot be collected: {one_line(str(error))}")
        else:
            merged = _Merged(found.output, found.records, found.errors)
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
        n_shards=seen.run.world_size,
        n_done=len(seen.receipts),
        unfinished=_unfinished(seen, end.left),
        waves=[WaveSummary(number=wave.number, words=words_of(wave)) for wave in waves],
    )
    return await asyncio.to_thread(_publish, directory, record)


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


async def notify(directory: RunDirectory, end: Finished, command: str | None) -> None:
    """Run the user's command, once for each end unless this process dies meanwhile.

    Raises:
        StoreError: that it was run cannot be written down.
    """
    path = layout.notified(end.number)
    if command is None or await asyncio.to_thread(directory.store.exists, path):
        return
    environ = {
        **os.environ,
        "ESPNET3_RUN_DIR": directory.root,
        "ESPNET3_OUTCOME": end.outcome,
        "ESPNET3_WORDS": in_words(end),
        "ESPNET3_RESULTS": end.results or "",
        "ESPNET3_FINISHED": directory.store.locate(layout.finished(end.number)),
    }
    code, output = await _run(command, environ)
    if code:
        log.error("notify: exit code %d: %s", code, one_line(output, 300))
    record = Notified(
        number=end.number,
        created=now(),
        by=this_process(),
        exit_code=code,
        output=cut(scrubbed(output)),
    )
    with contextlib.suppress(FileTaken):
        await asyncio.to_thread(directory.publish, record)


async def _run(command: str, environ: Mapping[str, str]) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_shell(
            command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environ,
        )
    except OSError as error:
        return 127, f"cannot be started: {error.strerror}"
    try:
        async with asyncio.timeout(NOTIFY_TIMEOUT):
            printed, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return 124, f"did not end within {NOTIFY_TIMEOUT:g} s"
    return process.returncode or 0, printed.decode(errors="replace")
