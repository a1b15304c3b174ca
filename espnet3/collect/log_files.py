"""The log files of a shard."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.storage.local import LocalStore


async def logs(run_dir: str | os.PathLike[str], rank: int) -> list[str]:
    """The log files that hold the output of a shard's tasks, oldest submission first.

    Only files that exist, no pipes or devices; a task that computed several shards has one log for
    all of them. A task that was never started has none: its supervisor's stands for it, if there is
    one (`env: local`).

    Args:
        run_dir: the run directory.
        rank: the shard.

    Raises:
        RunDirectoryError: it is not a run directory.
        UsageError: it has no such shard.
    """
    return await asyncio.to_thread(_logs, run_dir, rank)


def _logs(run_dir: str | os.PathLike[str], rank: int) -> list[str]:
    directory = RunDirectory.open(run_dir)
    directory.run().require_rank(rank, directory.root)
    return find_logs(directory, directory.submissions().known, rank)


def find_logs(
    directory: RunDirectory, submissions: Sequence[KnownSubmission], rank: int
) -> list[str]:
    """As `logs`, of a directory whose submissions have been read."""
    store = directory.store
    found = []
    for submission, _ in submissions:
        place = submission.place_of(rank)
        if place is None:
            continue
        task, job = place
        scheduler = get_scheduler(submission.scheduler)
        names = scheduler.log_file(job, task - job.first_task), scheduler.log_of_all(submission)
        # Of a run that was moved, the folder of then is gone, or another run's by now.
        own = [store.locate(layout.LOGS)] if isinstance(store, LocalStore) else []
        folders = [*own, submission.log_directory]
        paths = [os.path.join(folder, name) for name in names if name for folder in folders]
        found += [path for path in paths if os.path.isfile(path)][:1]
    return found
