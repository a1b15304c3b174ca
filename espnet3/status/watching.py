"""The state of a run, once or until it ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from functools import partial

from espnet3.run_dir.directory import RunDirectory
from espnet3.status.failed_items import FailedItemCounts
from espnet3.status.observation import observe
from espnet3.status.run_status import RunStatus


async def status(run_dir: str | os.PathLike[str]) -> RunStatus:
    """The state of every shard of a run, and how many items failed and were recorded.

    Args:
        run_dir: the run directory.

    Raises:
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.

    Example:
        >>> (await status("/shared/decode")).counts()  # doctest: +SKIP
        {'done': 38, 'failed': 2}
    """
    return await _look(run_dir, FailedItemCounts())


async def _look(run_dir: str | os.PathLike[str], failed_items: FailedItemCounts) -> RunStatus:
    return (await observe(partial(RunDirectory.open, run_dir), failed_items=failed_items)).status


async def watch(run_dir: str | os.PathLike[str], interval: float = 5.0) -> AsyncIterator[RunStatus]:
    """The state of a run again and again, until nothing of it is queued or running.

    Args:
        run_dir: the run directory.
        interval: seconds between two looks.

    Yields:
        The state; the last one has `live` False.
    """
    failed_items = FailedItemCounts()  # so that no receipt is read twice
    while True:
        seen = await _look(run_dir, failed_items)
        yield seen
        if not seen.live:
            return
        await asyncio.sleep(interval)
