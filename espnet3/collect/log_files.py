"""The log files of a shard."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence

from espnet3.run_dir.claims import read_open_claims
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.specs.layout import submission_of
from espnet3.specs.models import RunSpec, Submission
from espnet3.storage.base import Store
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
    run = directory.run()
    run.require_rank(rank, directory.root)
    return find_logs(directory, run, directory.submissions().known, rank)


def find_logs(
    directory: RunDirectory, run: RunSpec, submissions: Sequence[KnownSubmission], rank: int
) -> list[str]:
    """As `logs`, of a directory whose submissions have been read."""
    found = []
    for submission, _ in submissions:
        for task in _tasks_of(directory, run, submission, rank):
            path = log_of_task(directory.store, submission, task)
            found += [] if path is None else [path]
    return found


def log_of_task(store: Store, submission: Submission, task: int) -> str | None:
    """The log of a submission's task, or its supervisor's; None where there is none.

    Args:
        store: the run directory.
        submission: one of its.
        task: one of the submission's.
    """
    scheduler, job = get_scheduler(submission.scheduler), submission.job_of(task)
    # Of a run that was moved, the folder of then is gone, or another run's by now.
    own = [store.locate(layout.LOGS)] if isinstance(store, LocalStore) else []
    names = scheduler.log_file(job, task - job.first_task), scheduler.log_of_all(job)
    folders = [*own, submission.log_directory]
    paths = (os.path.join(folder, name) for name in names if name for folder in folders)
    return next(filter(os.path.isfile, paths), None)


def _tasks_of(
    directory: RunDirectory, run: RunSpec, submission: Submission, rank: int
) -> Iterable[int]:
    """The tasks of a submission that were, or will be, at a shard."""
    if submission.schedule == "static":
        place = submission.place_of(rank)
        return [] if place is None else [place[0]]
    receipts = directory.receipts(run.world_size)
    claims = read_open_claims(directory, receipts, {rank}).get(rank, [])
    own = (c.task for c in claims if submission_of(c.attempt) == submission.number)
    return dict.fromkeys(task for task in own if task is not None and task < submission.n_tasks)
