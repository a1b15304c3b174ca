"""The log files of a shard."""

from __future__ import annotations

import asyncio
import os

from espnet3.schedulers import get_scheduler
from espnet3.specs.errors import UsageError
from espnet3.specs.store import open_store
from espnet3.status.observe import read_run, read_submissions


async def logs(run_dir: str | os.PathLike[str], rank: int) -> list[str]:
    """The log files that hold the output of a shard's tasks, oldest submission first.

    Only files that exist, no pipes or devices; a task that computed several shards has one log for
    all of them.

    Args:
        run_dir: the run directory.
        rank: the shard.

    Raises:
        RunDirectoryError: it is no run directory.
        UsageError: it has no such shard.
    """
    return await asyncio.to_thread(_logs, run_dir, rank)


def _logs(run_dir: str | os.PathLike[str], rank: int) -> list[str]:
    store = open_store(run_dir)
    run = read_run(store)
    if not 0 <= rank < run.world_size:
        raise UsageError(f"rank {rank}: {store.root} has shards 0 to {run.world_size - 1}")
    found = []
    for submission, _ in read_submissions(store)[0]:
        place = submission.place_of(rank)
        if place is None:
            continue
        task, job = place
        name = get_scheduler(submission.scheduler).log_file(job, task - job.first_task)
        path = os.path.join(submission.log_directory, name)
        if os.path.isfile(path):
            found.append(path)
    return found
