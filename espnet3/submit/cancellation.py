"""Cancelling a run: ask the scheduler to stop its jobs, and leave a note that it was asked."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import NamedTuple

from espnet3.config.current import chosen_policy
from espnet3.errors import (
    EspnetError,
    RunDirectoryError,
    StoreError,
    UsageError,
)
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import ON_THIS_HOST, KnownFinisher
from espnet3.run_dir.processes import is_alive, this_process, this_user
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.worker_command import FINISHER, arguments_of
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.ownership import as_recorded, is_own_finisher, is_own_job
from espnet3.specs import layout
from espnet3.specs.models import AcceptedJob, Cancellation, RunSpec, now
from espnet3.status.observation import Observation, observe
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import absolute_root
from espnet3.submit.lost_jobs import Gone, cancel_lost, require_there
from espnet3.text import plural


async def cancel(run_dir: str | os.PathLike[str], *, trust: Trust | None = None) -> list[str]:
    """Stop all jobs of a run. What they have finished is kept; `resume` goes on from there.

    Only jobs of this user end that are named after the run: what the directory says of them is
    compared with what the scheduler says. Of a directory that is gone, jobs are found where the
    scheduler itself tells it: see `espnet3.submit.lost_jobs`.

    Args:
        run_dir: the run directory.
        trust: whose run directories are believed, as in the parallel config; what `set_parallel`
            set where unset.

    Returns:
        Ids of the jobs that were asked to stop.

    Raises:
        RunDirectoryError: it is not a run directory, or a copy of one, or is gone and no job of it
            is found.
        Untrusted: others could have written which jobs are its own.
        SchedulerUnavailable: the scheduler does not answer.
        UsageError: it holds jobs that are not its own, or live ones that are somebody else's, or
            that were renamed; the others were asked to stop.
        StoreError: the jobs were asked to stop, but no note of it could be left.
    """
    try:
        found = await observe(partial(_open, run_dir, chosen_policy(trust)), own_jobs)
    except Gone as gone:
        found, root = None, gone.root
    if found is None:
        return await cancel_lost(root)
    directory, own, finishers, original = found
    if original is not None and not own:
        raise RunDirectoryError(
            directory.root, f"is a copy of {original}, where its jobs work; cancel them there"
        )
    # First, since they would start when the others have ended.
    return await _cancel_finishers(finishers) + await _cancel_submissions(directory, own)


async def _cancel_submissions(directory: RunDirectory, own: list[KnownSubmission]) -> list[str]:
    """Stop what is alive of some submissions; the ids of their jobs.

    Raises:
        UsageError, StoreError, SchedulerUnavailable: as `cancel` does.
    """
    stopped: list[str] = []
    renamed: list[str] = []
    problem = None
    for known in own:
        # Also where its shards are done: another submission may have finished them.
        tasks = await get_scheduler(known.submission.scheduler).query([known])
        live = {task for (_, task), state in tasks.items() if state.state != "ended"}
        if known.recorded is not None and not live:
            if known is own[-1]:  # workers that have joined since look for it
                await asyncio.to_thread(_note_for_joined, directory, known)
            continue
        jobs, others = await _jobs_of_mine(known, live)
        renamed += others
        if others and not jobs:
            continue
        try:
            note = Cancellation(number=known.submission.number, created=now(), by=this_process())
            await asyncio.to_thread(directory.publish_first, note)
        except StoreError as error:  # jobs on a full disk are to end, too
            problem = problem or error
        await get_scheduler(known.submission.scheduler).cancel(jobs)
        stopped += [job.job_id for job in jobs]
    if problem is not None:
        raise problem
    if renamed:
        raise UsageError(
            f"{plural(len(renamed), 'job')} {', '.join(renamed)}: under another name than the run "
            "gave, so left alone; if you did that, stop it by the scheduler's own command"
        )
    return stopped


async def _cancel_finishers(finishers: list[KnownFinisher]) -> list[str]:
    """Stop finishers that are still to come; the ids of their jobs."""
    stopped = []
    for known in finishers:
        finisher, queued = known.finisher, known.queued
        if finisher.scheduler in ON_THIS_HOST:
            if queued is not None and is_alive(queued.recorded_by):
                os.kill(queued.recorded_by.pid, signal.SIGTERM)
                stopped.append(str(queued.recorded_by.pid))
            continue
        scheduler = get_scheduler(finisher.scheduler)
        states = await scheduler.query([known.as_submission()])
        # Of one whose submitter died before it recorded the job, only the name is known.
        if queued is None or any(state.state != "ended" for state in states.values()):
            found = await scheduler.find([finisher.job], this_user())
            await scheduler.cancel(found)
            stopped += [job.job_id for job in found]
    return stopped


def _note_for_joined(directory: RunDirectory, known: KnownSubmission) -> None:
    if directory.store.names(layout.WORKERS):
        number = known.submission.number
        directory.publish_first(Cancellation(number=number, created=now(), by=this_process()))


async def _jobs_of_mine(
    known: KnownSubmission, live: set[int]
) -> tuple[list[AcceptedJob], list[str]]:
    """The jobs of a submission that the scheduler knows as this user's by their names.

    A name holds the run's id, which no other job's does. Of an id in a record only the record says
    whose it is, and it may be a copy, or edited.

    Args:
        known: the submission.
        live: its tasks that have not ended.

    Returns:
        The jobs, and the recorded ids of live ones that have another name by now.

    Raises:
        UsageError: jobs are live, and none is this user's.
    """
    submission, ids = known.submission, known.job_ids()
    me = this_user()
    found = await get_scheduler(submission.scheduler).find_of(submission, me)
    named = {job.name for job in found}
    renamed = [
        ids[job.name]
        for job in submission.jobs
        if job.name in ids and job.name not in named
        and not live.isdisjoint(range(job.first_task, job.first_task + job.n_tasks))
    ]  # fmt: skip
    if live and not found and submission.submitter.user != me:
        raise UsageError(
            f"submission {submission.number:04d}: its jobs are those of "
            f"{submission.submitter.user}, who has to cancel them"
        )
    return as_recorded(found, submission, known.recorded), renamed


def _open(run_dir: str | os.PathLike[str], policy: Trust | None) -> RunDirectory:
    """As `open_believed`, of a directory that may be gone.

    Raises:
        Gone: it is.
    """
    require_there(absolute_root(run_dir))
    return open_believed(run_dir, policy)


def open_believed(run_dir: str | os.PathLike[str], policy: Trust | None) -> RunDirectory:
    """A directory whose submissions may be believed.

    Raises:
        Untrusted: others could have written them.
    """
    directory = RunDirectory.open(run_dir, policy)
    directory.require_submissions()
    return directory


class OwnJobs(NamedTuple):
    """Whose jobs work in a run directory.

    Attributes:
        directory: the run directory.
        submissions: those whose jobs do.
        finishers: those that are still to come, and do.
        original: where other submissions' jobs work, of which this is a copy; None for a copy of
            nothing.
    """

    directory: RunDirectory
    submissions: list[KnownSubmission]
    finishers: list[KnownFinisher]
    original: str | None


def own_jobs(seen: Observation) -> OwnJobs:
    """The submissions and finishers to come whose jobs work in a run directory.

    Raises:
        Untrusted: the run's own policy is stricter, and others could have written which they are.
        UsageError: jobs are not named after the run.
    """
    directory = seen.directory
    last = (known.submission.parallel for known in seen.submissions[-1:])
    if directory.trust_at_most(seen.run.parallel, *last):
        directory.require_submissions()
    store = directory.store
    own, original = [], None
    for known in seen.submissions:
        _require_own_names(known, seen.run)
        there = _root(known)
        if isinstance(store, LocalStore) and _is_another(store, there, seen.run):
            original = there
        else:
            own.append(known)
    return OwnJobs(directory, own, _own_finishers(seen), original)


def _own_finishers(seen: Observation) -> list[KnownFinisher]:
    """The finishers that are still to come; those of a run that this is a copy of are not.

    Raises:
        UsageError: a job is not named after the run.
    """
    ending, store = seen.ending, seen.directory.store
    found: list[KnownFinisher] = []
    if ending is None or ending.is_over:
        return found
    for known in ending.finishers:
        finisher = known.finisher
        if ending.end is not None and finisher.end <= ending.end.number:
            continue
        if not is_own_finisher(seen.run, finisher):
            raise UsageError(
                f"finisher {finisher.number:04d}: {finisher.job.name!r} is not a job of run "
                f"{seen.run.run_id}, so nothing is cancelled; was the file edited by hand?"
            )
        there = arguments_of(finisher.command, FINISHER).run
        if not (isinstance(store, LocalStore) and _is_another(store, there, seen.run)):
            found.append(known)
    return found


def _require_own_names(known: KnownSubmission, run: RunSpec) -> None:
    submission = known.submission
    own = {job.name for j, job in enumerate(submission.jobs) if is_own_job(run, submission, j)}
    for name in [*(job.name for job in submission.jobs), *known.job_ids()]:
        if name not in own:
            raise UsageError(
                f"submission {submission.number:04d}: {name!r} is not a job of run {run.run_id}, "
                "so nothing is cancelled; was the file edited by hand?"
            )


def _root(known: KnownSubmission) -> str:
    """The run directory that the submission's workers work in.

    Raises:
        UsageError: the command starts no worker of ours.
    """
    try:
        return arguments_of(known.submission.worker_command).run
    except UsageError:
        raise UsageError(
            f"submission {known.submission.number:04d}: its worker_command names no run directory; "
            "was the file edited by hand?"
        ) from None


def _is_another(store: LocalStore, root: str, run: RunSpec) -> bool:
    """Whether the run lives in another directory too; one that was only moved does not."""
    if os.path.realpath(root) == os.path.realpath(store.root):
        return False
    try:
        return RunDirectory.open(root).run().run_id == run.run_id
    except EspnetError:
        return False
