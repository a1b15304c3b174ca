"""The state of a run, once or until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

from espnet3.errors import FormatError, StoreError
from espnet3.run_dir.directory import RunDirectory
from espnet3.status.item_progress import ItemProgress
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import RunStatus
from espnet3.user_code.sources import differing


async def status(run_dir: str | os.PathLike[str]) -> RunStatus:
    """The state of every shard of a run, and how many items are done, or failed and were recorded.

    Args:
        run_dir: the run directory.

    Raises:
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.

    Example:
        >>> (await status("/shared/decode")).counts()  # doctest: +SKIP
        {'done': 38, 'failed': 2}
    """
    directory = partial(RunDirectory.open, run_dir)
    return await observe(directory, _with_changed_sources, items=ItemProgress())


def _with_changed_sources(seen: Observation) -> RunStatus:
    """The status, with the source files that were edited since the last submission."""
    if seen.status.done:
        return seen.status
    record = None
    with contextlib.suppress(FormatError, StoreError):  # who works with it will say so
        record = seen.directory.code(seen.last)
    if record is None or not all(map(os.path.isdir, record.roots)):  # this is another host
        return seen.status
    return replace(
        seen.status, changed_sources=[record.path_of(file) for file in differing(record)]
    )


async def _look(run_dir: str | os.PathLike[str], items: ItemProgress) -> RunStatus:
    return (await observe(partial(RunDirectory.open, run_dir), items=items)).status


async def watch(run_dir: str | os.PathLike[str], interval: float = 5.0) -> AsyncIterator[RunStatus]:
    """The state of a run again and again, until nothing of it is queued or running.

    Args:
        run_dir: the run directory.
        interval: seconds between two looks.

    Yields:
        The state; the last one has `live` False.
    """
    items = ItemProgress()  # so that nothing is read twice
    while True:
        seen = await _look(run_dir, items)
        yield seen
        if not seen.live:
            return
        await asyncio.sleep(interval)
