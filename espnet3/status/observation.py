"""Gathering what is known of a run: its directory, one scheduler query, its directory again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar, overload

from espnet3.errors import (
    FileMissing,
    FormatError,
    SchedulerUnavailable,
)
from espnet3.run_dir.claims import read_open_claims
from espnet3.run_dir.directory import RunDirectory, jobs_record
from espnet3.run_dir.finishers import ON_THIS_HOST, Ending, KnownFinisher, read_ending
from espnet3.run_dir.processes import is_busy
from espnet3.run_dir.receipts import Receipts
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import TaskState
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
from espnet3.status.evidence import Evidence
from espnet3.status.finishing import find_finisher, finishing
from espnet3.status.item_progress import ItemCounts, ItemProgress
from espnet3.status.run_status import RunStatus
from espnet3.status.shard_states import shard_states
from espnet3.storage.concurrency import gather

# Seconds after which nobody is believed to be submitting any more; on another host, whose processes
# and clock cannot be seen, earlier.
_SUBMITTING_HERE, _SUBMITTING_ELSEWHERE = 3600.0, 600.0
_READERS = 8  # threads; network file systems and object stores take their time
T = TypeVar("T")


class Observation(NamedTuple):
    """What was found.

    Attributes:
        directory: the run directory.
        run: the run's spec.
        status: the state of every shard.
        submissions: all submissions, with their jobs; those found by name are included.
        found: jobs that nobody had recorded, found by their unique names: submission -> jobs.
        receipts: rank -> generation of the receipt that counts, for every shard that is done.
        ending: its finishers and waves; None where there never was one.
        cancelled: numbers of submissions that were cancelled -> why, or "".
    """

    directory: RunDirectory
    run: RunSpec
    status: RunStatus
    submissions: list[KnownSubmission]
    found: dict[int, AcceptedJobs]
    receipts: dict[int, int]
    ending: Ending | None = None
    cancelled: Mapping[int, str] = MappingProxyType({})

    @property
    def last(self) -> Submission | None:
        """The newest submission; None where nothing was submitted yet."""
        return self.submissions[-1].submission if self.submissions else None

    @property
    def next_number(self) -> int:
        """The number of the next submission, as far as was seen."""
        return self.last.number + 1 if self.last else 1

    def by_number(self) -> dict[int, Submission]:
        """Number -> submission."""
        return {known.submission.number: known.submission for known in self.submissions}


class _FirstLook(NamedTuple):
    """What the directory alone tells, without the attempts.

    Attributes:
        directory: the run directory.
        run: the run's spec.
        submissions: all submissions, with their recorded jobs.
        cancelled: the numbers of those that were cancelled, with the cause or "".
        receipts: which shards are done.
        being_submitted: the numbers of those that somebody seems to be busy with.
        ending: its finishers and waves; None where there never was one.
    """

    directory: RunDirectory
    run: RunSpec
    submissions: list[KnownSubmission]
    cancelled: Mapping[int, str]
    receipts: Receipts
    being_submitted: set[int]
    ending: Ending | None = None

    @property
    def is_done(self) -> bool:
        """Whether every shard is done, so that nothing else matters."""
        return len(self.receipts.done) == self.run.world_size


class _Answers(NamedTuple):
    """What the schedulers say.

    Attributes:
        tasks: the state of each task that they know; None where nobody answered or was asked.
        found: jobs that nobody had recorded: submission -> jobs.
        problem: why there is no answer.
        finisher: what is said of the last finisher's job; None where it is not known, or nobody
            was asked.
    """

    tasks: TaskStates | None = None
    found: Mapping[int, AcceptedJobs] = MappingProxyType({})
    problem: str | None = None
    finisher: TaskState | None = None


@overload
async def observe(
    directory: RunDirectory | Callable[[], RunDirectory],
    *,
    ask_scheduler: bool = True,
    items: ItemProgress | None = None,
    until_wave: int | None = None,
) -> Observation: ...


@overload
async def observe(
    directory: RunDirectory | Callable[[], RunDirectory],
    then: Callable[[Observation], T],
    *,
    ask_scheduler: bool = True,
    items: ItemProgress | None = None,
    until_wave: int | None = None,
) -> T: ...


async def observe(
    directory: RunDirectory | Callable[[], RunDirectory],
    then: Callable[[Observation], Any] = lambda seen: seen,
    *,
    ask_scheduler: bool = True,
    items: ItemProgress | None = None,
    until_wave: int | None = None,
) -> Any:
    """Find out the state of every shard.

    The questions to schedulers stand between two looks at the directory, each in a thread; file
    work of the caller that belongs to them is done there too (decision 0016).

    Args:
        directory: the run directory, or a function that returns it once it may be looked at.
        then: what is made of what was seen.
        ask_scheduler: False to use what the run directory alone can tell.
        items: counts the items that are done or failed, which reads the result files of shards that
            are not done, and receipts where errors may stand there; not counted where unset.
        until_wave: asked for by who comes behind the jobs of all waves before this one: these have
            ended, later ones are not looked at, and nobody is asked.

    Returns:
        What `then` returns; what was seen where unset.

    Raises:
        RunDirectoryError: it is not a run directory.
        FormatError: run.json or a submission cannot be read.
    """
    first = await asyncio.to_thread(_look, directory)
    if until_wave is not None:
        known = [s for s in first.submissions if _wave_of(s.submission) < until_wave]
        first = first._replace(submissions=known, being_submitted=set())
        ask_scheduler = False
    asks = ask_scheduler and not first.is_done
    answers = await _ask(first) if asks else _Answers()
    if ask_scheduler and answers.problem is None:
        first = first._replace(ending=await _with_found_finisher(first.ending))
        answers = answers._replace(finisher=await _ask_for_finisher(first.ending))

    if until_wave is not None:
        answers = _Answers(TaskStates())  # what nobody knows of has ended

    def conclude() -> Any:
        # A job may have ended between the first look and the scheduler's answer.
        last = first.receipts
        if asks or until_wave is not None:
            last = first.directory.receipts(first.run.world_size, last)
        return then(_conclusion(first, answers, last, items))

    return await asyncio.to_thread(conclude)


def _chosen(
    submissions: Sequence[KnownSubmission], ending: Ending | None
) -> dict[int, Collection[int]]:
    """What waves that were queued up front are to compute, as far as that is decided."""
    found: dict[int, Collection[int]] = {}
    if ending is None:
        return found
    waves = {wave.number: wave for wave in ending.all_waves}
    for known in submissions:
        ahead, number = known.submission.ahead, known.submission.number
        if ahead is None:
            continue
        if ahead.wave in waves:
            portions = waves[ahead.wave].portions
            found[number] = {rank for portion in portions for rank in portion.shards()}
        elif ending.end is not None and ending.end.number >= ahead.end:
            found[number] = ()
    return found


def _wave_of(submission: Submission) -> int:
    return 0 if submission.ahead is None else submission.ahead.wave


def _look(directory: RunDirectory | Callable[[], RunDirectory]) -> _FirstLook:
    if not isinstance(directory, RunDirectory):
        directory = directory()
    run = directory.run()
    submissions, cancelled = directory.submissions()
    first = _FirstLook(
        directory, run, submissions, cancelled, directory.receipts(run.world_size), set(),
        read_ending(directory),
    )  # fmt: skip
    if first.is_done:
        return first
    return first._replace(being_submitted=_being_submitted(submissions, cancelled))


async def _ask(first: _FirstLook) -> _Answers:
    """Ask for jobs that nobody recorded, and for the state of all tasks."""
    found: dict[int, AcceptedJobs] = {}
    try:
        found = await _find_unrecorded(first.submissions, first.being_submitted)
        return _Answers(await _query(_with(first.submissions, found), first.receipts.done), found)
    except SchedulerUnavailable as error:
        return _Answers(found=found, problem=str(error))


async def _with_found_finisher(ending: Ending | None) -> Ending | None:
    """The same with the job of the last finisher, whose submitter died before it recorded that."""
    if ending is None or ending.is_over or ending.finishers[-1].queued is not None:
        return ending
    finisher = ending.finishers[-1].finisher
    if is_busy(finisher.submitter, finisher.job.name):
        return ending
    queued = await find_finisher(finisher)
    if queued is None:
        return ending
    return ending._replace(finishers=[*ending.finishers[:-1], KnownFinisher(finisher, queued)])


async def _ask_for_finisher(ending: Ending | None) -> TaskState | None:
    """What the scheduler says of the last finisher's job, where one is to come."""
    if ending is None or ending.is_over:
        return None
    last = ending.finishers[-1]
    if last.job_id is None or last.finisher.scheduler in ON_THIS_HOST:
        return None
    with contextlib.suppress(SchedulerUnavailable):
        states = await get_scheduler(last.finisher.scheduler).query([last.as_submission()])
        return states.get((-last.finisher.number, 0), TaskState("ended"))
    return None


def _with(
    submissions: Sequence[KnownSubmission], found: Mapping[int, AcceptedJobs]
) -> list[KnownSubmission]:
    """The submissions, with jobs that were found by their names."""
    return [
        KnownSubmission(submission, found.get(submission.number, recorded))
        for submission, recorded in submissions
    ]


def _conclusion(
    first: _FirstLook, answers: _Answers, last: Receipts, items: ItemProgress | None
) -> Observation:
    directory, run = first.directory, first.run
    submissions = _with(first.submissions, answers.found)
    records = {} if first.is_done else _read_records(directory, last.done)
    claims = {} if first.is_done else read_open_claims(directory, last)
    evidence = Evidence(
        run.world_size, last.done, records, submissions, first.being_submitted, first.cancelled,
        answers.tasks, last.withdrawn, claims, first.cancelled, _chosen(submissions, first.ending),
    )  # fmt: skip
    states = shard_states(evidence)
    counts = ItemCounts()
    if items is not None:
        counts = items.look(directory, run, last.done, evidence, states)
    end = None
    if first.ending is not None:
        answered = answers.finisher is not None
        end = finishing(
            first.ending, answers.finisher, answered=answered, cancelled=first.cancelled
        )
    merged = None
    if run.writers is not None and len(last.done) == run.world_size:
        from espnet3.run_dir.written import merged_into  # which few runs need

        merged = merged_into(directory, run, last.done)
    status = RunStatus(
        directory.root, states, answers.problem, run.n_items, counts.failed, end,
        progress=counts.progress, skipped=counts.skipped,
        submissions={known.submission.number: known.submission for known in submissions},
        merges=run.writers is not None, merged=merged,
    )  # fmt: skip
    found = dict(answers.found)
    return Observation(
        directory, run, status, submissions, found, last.done, first.ending, first.cancelled
    )


def _read_records(
    directory: RunDirectory, done: Container[int]
) -> dict[AttemptFile, AttemptRecord]:
    """What is known last of each attempt at a shard that is not done: its end, else its start."""
    attempts: dict[tuple[int, str], list[AttemptFile]] = {}
    for file in map(layout.parse_attempt_record, directory.store.names(layout.ATTEMPTS)):
        if file is not None and file.rank not in done:
            attempts.setdefault((file.rank, file.attempt), []).append(file)

    def read(files: list[AttemptFile]) -> tuple[AttemptFile, AttemptRecord] | None:
        for file in sorted(files, key=lambda file: file.event == "started"):
            with contextlib.suppress(FileMissing, FormatError):  # a hint only; shown as lost
                return file, directory.read(AttemptRecord, layout.attempt_record(*file))
        return None

    records = gather(read, [*attempts.values()], _READERS)
    return dict(found for found in records if found is not None)


def _being_submitted(submissions: Sequence[KnownSubmission], cancelled: Container[int]) -> set[int]:
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
        jobs: list[AcceptedJob] = await get_scheduler(submission.scheduler).find_of(
            submission, submission.submitter.user
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
    if submission.schedule == "dynamic":  # any of them may be at any shard
        return [*range(submission.n_tasks)]
    ranks, size = submission.ranks.plain(), submission.shards_per_job
    positions = [position for position, rank in enumerate(ranks) if rank not in receipts]
    return positions if size == 1 else list(dict.fromkeys(p // size for p in positions))
