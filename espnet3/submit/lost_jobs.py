"""Cancelling the jobs of a run directory that is gone.

Their names hold the run's id, which nobody knows any more. So schedulers are asked that tell of a
job itself which directory it works for; decision 0025 says why no other is.
"""

from __future__ import annotations

import asyncio
import os
import shutil

from espnet3.errors import RunDirectoryError, SchedulerUnavailable
from espnet3.run_dir.processes import this_user
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import Scheduler
from espnet3.specs.models import AcceptedJob

# Name -> a command without which it is not here.
_ASKED = {"local": None, "slurm": "squeue"}


class Gone(Exception):
    """There is nothing at the path of a run directory, its `root`."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.root = root


def require_there(root: str) -> None:
    """Tell a run directory that is gone from others; an URL's is never said to be.

    Raises:
        Gone: it is.
    """
    if "://" not in root and not os.path.lexists(root):
        raise Gone(root)


async def cancel_lost(root: str) -> list[str]:
    """Stop the jobs of this user that were submitted to work in a directory that is gone.

    Args:
        root: its absolute path.

    Returns:
        Ids of the jobs that were asked to stop; at least one.

    Raises:
        RunDirectoryError: none is found.
    """
    stopped: list[str] = []
    silent: list[str] = []
    for name, command in _ASKED.items():
        if command is not None and await asyncio.to_thread(shutil.which, command) is None:
            continue
        scheduler = get_scheduler(name)
        try:
            found = await _find(scheduler, root)
            if found:
                await scheduler.cancel(found)
        except SchedulerUnavailable:
            silent.append(name)
            continue
        stopped += [job.job_id for job in found]
    if not stopped:
        raise RunDirectoryError(
            root,
            "does not exist, and no job is known to work for it"
            + "".join(f" ({name} does not answer here)" for name in silent)
            + "; check the path. If it was removed while some lived, running ones end within a "
            "heartbeat and queued ones when they start; to stop them now, use the scheduler's own "
            "commands",
        )
    return stopped


def _names(root: str) -> list[str]:
    """The name that the user gave a directory, and that of its place."""
    folder, name = os.path.split(root)
    return [*dict.fromkeys((root, os.path.join(os.path.realpath(folder), name)))]


async def _find(scheduler: Scheduler, root: str) -> list[AcceptedJob]:
    jobs: dict[str, AcceptedJob] = {}
    for place in await asyncio.to_thread(_names, root):
        for job in await scheduler.find_working_in(place, this_user()):
            jobs[job.job_id] = job
    return [*jobs.values()]
