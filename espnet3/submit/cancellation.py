"""Cancelling a run: ask the scheduler to stop its jobs, and leave a note that it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import os

from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import KnownSubmission
from espnet3.schedulers.local import WORKER
from espnet3.specs import layout
from espnet3.specs.errors import (
    EspnetError,
    FileTaken,
    RunDirectoryError,
    StoreError,
    UsageError,
)
from espnet3.specs.local_store import LocalStore
from espnet3.specs.models import Cancellation, RunSpec, encode, now
from espnet3.specs.processes import this_process
from espnet3.specs.store import Store, open_store
from espnet3.status.observe import Observation, observe, read_run

_GONE = (
    "is not there, so nobody knows its jobs; if it was removed while they lived, those that run "
    "end by themselves after their next checkpoint and queued ones at their start, or stop them "
    "by the scheduler's own commands"
)


async def cancel(run_dir: str | os.PathLike[str]) -> list[str]:
    """Stop all jobs of a run. What they have finished is kept; `resume` goes on from there.

    Args:
        run_dir: the run directory.

    Returns:
        Ids of the jobs that were asked to stop.

    Raises:
        RunDirectoryError: it is no run directory, or a copy of one, or is gone.
        SchedulerUnavailable: the scheduler does not answer.
        StoreError: the jobs were asked to stop, but no note of it could be left.
    """
    store = await asyncio.to_thread(open_store, run_dir)
    try:
        seen = await observe(store)
    except RunDirectoryError:
        if isinstance(store, LocalStore) and not await asyncio.to_thread(
            os.path.lexists, store.root
        ):
            raise RunDirectoryError(store.root, _GONE) from None
        raise
    own = await asyncio.to_thread(_own, store, seen)
    stopped, problem = [], None
    for known in own:
        submission, recorded = known
        scheduler = get_scheduler(submission.scheduler)
        jobs = list(recorded.jobs) if recorded else []
        names = {job.name for job in jobs}
        unrecorded = [planned for planned in submission.jobs if planned.name not in names]
        if unrecorded:
            jobs += await scheduler.find(unrecorded, submission.submitter.user)
        # Also where its shards are done: another submission may have finished them.
        tasks = await scheduler.query([known])
        if recorded is None or any(task.state != "ended" for task in tasks.values()):
            try:
                await asyncio.to_thread(_note, store, submission.number)
            except StoreError as error:  # jobs on a full disk are to end, too
                problem = problem or error
            await scheduler.cancel(jobs)
            stopped += [job.job_id for job in jobs]
    if problem is not None:
        raise problem
    return stopped


def _own(store: Store, seen: Observation) -> list[KnownSubmission]:
    """The submissions whose jobs work in this directory.

    Raises:
        RunDirectoryError: it is a copy of a run, and all jobs work in the original.
    """
    own, root = [], ""
    for known in seen.submissions:
        there = _root(known)
        if isinstance(store, LocalStore) and _is_another(store, there, seen.run):
            root = there
        else:
            own.append(known)
    if root and not own:
        raise RunDirectoryError(
            store.root, f"is a copy of {root}, where its jobs work; cancel them there"
        )
    return own


def _root(known: KnownSubmission) -> str:
    """The run directory that the submission's workers work in.

    Raises:
        UsageError: the command starts no worker of ours.
    """
    words = known.submission.worker_command
    if WORKER not in words[:-1]:
        raise UsageError(
            f"submission {known.submission.number:04d}: its worker_command names no run directory; "
            "was the file edited by hand?"
        )
    return words[words.index(WORKER) + 1]


def _is_another(store: LocalStore, root: str, run: RunSpec) -> bool:
    """Whether the run lives in another directory too; one that was only moved does not."""
    if os.path.realpath(root) == os.path.realpath(store.root):
        return False
    try:
        return read_run(open_store(root)).run_id == run.run_id
    except EspnetError:
        return False


def _note(store: Store, number: int) -> None:
    note = Cancellation(number=number, created=now(), by=this_process())
    with contextlib.suppress(FileTaken):
        store.create(layout.cancellation(number), encode(note))
