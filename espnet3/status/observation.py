"""Gathering what is known of a run: its directory, one scheduler query, its directory again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Container, Sequence
from typing import NamedTuple

from espnet3.errors import (
    FileMissing,
    FormatError,
    SchedulerUnavailable,
)
from espnet3.run_dir.directory import RunDirectory, jobs_record
from espnet3.run_dir.processes import is_busy
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.receipts import Receipts, look_at_receipts
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs import layout
from espnet3.specs.layout import AttemptFile
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    AttemptRecord,
    RunSpec,
    Submission,
    now,
)
from espnet3.status.failed_items import FailedItemCounts, records_errors
from espnet3.status.run_status import RunStatus
from espnet3.status.shard_states import Evidence, shard_states
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather

# Seconds after which nobody is believed to be submitting any more; on another host, whose processes
# and clock cannot be seen, earlier.
_SUBMITTING_HERE, _SUBMITTING_ELSEWHERE = 3600.0, 600.0
_READERS = 8  # threads; network file systems and object stores take their time


class Observation(NamedTuple):
    """What was found.

    Attributes:
        run: the run's spec.
        status: the state of every shard.
        submissions: all submissions, with their jobs; those found by name are included.
        found: jobs that nobody had recorded, found by their unique names: submission -> jobs.
        receipts: rank -> generation of the receipt that counts, for every shard that is done.
    """

    run: RunSpec
    status: RunStatus
    submissions: list[KnownSubmission]
    found: dict[int, AcceptedJobs]
    receipts: dict[int, int]


async def observe(
    store: Store, *, ask_scheduler: bool = True, failed_items: FailedItemCounts | None = None
) -> Observation:
    """Find out the state of every shard.

    Args:
        store: the run directory.
        ask_scheduler: False to use what the run directory alone can tell.
        failed_items: counts the items that failed and were recorded, which reads the receipts
            where there may be any; they are not counted where unset.

    Raises:
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.
    """
    run, submissions, cancelled, receipts = await asyncio.to_thread(_look, store)
    done = len(receipts.done) == run.world_size
    tasks: TaskStates | None = None
    problem = None
    found: dict[int, AcceptedJobs] = {}
    being_submitted: set[int] = set()
    if not done and any(entry.recorded is None for entry in submissions):
        being_submitted = await asyncio.to_thread(_being_submitted, submissions, cancelled)
    if not done and ask_scheduler:
        try:
            found = await _find_unrecorded(submissions, being_submitted)
            submissions = [
                KnownSubmission(s.submission, found.get(s.submission.number, s.recorded))
                for s in submissions
            ]
            tasks = await _query(submissions, receipts.done)
        except SchedulerUnavailable as error:
            problem = str(error)

    def conclude() -> tuple[RunStatus, dict[int, int]]:
        # A job may have ended between the first look and the scheduler's answer.
        last = receipts
        if not done and ask_scheduler:
            last = look_at_receipts(store, run.world_size, receipts)
        records = {} if done else _read_records(store, last.done)
        evidence = Evidence(
            run.world_size, last.done, records, submissions, being_submitted, cancelled, tasks,
            last.withdrawn,
        )  # fmt: skip
        failed: dict[int, int | None] = {}
        if failed_items is not None and records_errors(run, submissions):
            failed = failed_items.count(store, run, last.done)
        states = shard_states(evidence)
        return RunStatus(store.root, states, problem, run.n_items, failed), last.done

    status, receipts_now = await asyncio.to_thread(conclude)
    return Observation(run, status, submissions, found, receipts_now)


def _look(store: Store) -> tuple[RunSpec, list[KnownSubmission], set[int], Receipts]:
    """What the directory alone tells, without the attempts."""
    directory = RunDirectory(store)
    run = directory.run()
    return run, *directory.submissions(), directory.receipts(run.world_size)


def _read_records(store: Store, done: Container[int]) -> dict[AttemptFile, AttemptRecord]:
    """What is known last of each attempt at a shard that is not done: its end, else its start."""
    attempts: dict[tuple[int, str], list[AttemptFile]] = {}
    for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS)):
        if file is not None and file.rank not in done:
            attempts.setdefault((file.rank, file.attempt), []).append(file)

    def read(files: list[AttemptFile]) -> tuple[AttemptFile, AttemptRecord] | None:
        for file in sorted(files, key=lambda file: file.event == "started"):
            with contextlib.suppress(FileMissing, FormatError):  # a hint only; shown as lost
                return file, read_persisted(store, AttemptRecord, layout.attempt_record(*file))
        return None

    records = gather(read, [*attempts.values()], _READERS)
    return dict(found for found in records if found is not None)


def _being_submitted(submissions: Sequence[KnownSubmission], cancelled: set[int]) -> set[int]:
    """Submissions without recorded jobs that somebody seems to be busy with.

    That is a hint with an end: a submitter that lives on after it failed to record its jobs must
    not block the run for ever.
    """
    found = set()
    for submission, recorded in submissions:
        if recorded is not None or submission.number in cancelled:
            continue
        age = abs((now() - submission.created).total_seconds())  # a clock may have been ahead
        alive = is_busy(submission.submitter, submission.jobs[0].name)
        if alive is False:  # but its submit command may live on, and be accepted yet
            alive = get_scheduler(submission.scheduler).is_submitting(submission)
        if (alive and age < _SUBMITTING_HERE) or (alive is None and age < _SUBMITTING_ELSEWHERE):
            found.add(submission.number)
    return found


async def _find_unrecorded(
    submissions: Sequence[KnownSubmission], being_submitted: set[int]
) -> dict[int, AcceptedJobs]:
    """Jobs of submissions whose submitter died before it could record them, by their names."""
    found = {}
    for submission, recorded in submissions:
        if recorded is not None or submission.number in being_submitted:
            continue
        jobs: list[AcceptedJob] = await get_scheduler(submission.scheduler).find(
            submission.jobs, submission.submitter.user
        )
        if jobs:
            found[submission.number] = jobs_record(submission.number, jobs)
    return found


async def _query(submissions: Sequence[KnownSubmission], receipts: Container[int]) -> TaskStates:
    """One query for each scheduler that the run was submitted to; nearly always one in all."""
    wanted = {s.submission.number: _unfinished_tasks(s.submission, receipts) for s in submissions}
    unfinished = [s for s in submissions if wanted[s.submission.number]]
    tasks = TaskStates()
    for name in sorted({s.submission.scheduler for s in unfinished}):
        own = [s for s in unfinished if s.submission.scheduler == name]
        tasks.merge(await get_scheduler(name).query(own, wanted))
    return tasks


def _unfinished_tasks(submission: Submission, receipts: Container[int]) -> list[int]:
    """The tasks that hold a shard without a receipt, in order."""
    ranks, size = submission.ranks.plain(), submission.shards_per_job
    positions = [position for position, rank in enumerate(ranks) if rank not in receipts]
    return positions if size == 1 else list(dict.fromkeys(p // size for p in positions))
