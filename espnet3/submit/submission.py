"""One submission: its intent on disk, its jobs at the scheduler, their record on disk."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from espnet3.config.model import ParallelConfig
from espnet3.errors import FileTaken, SchedulerUnavailable, StoreError, SubmissionRefused
from espnet3.run_dir.directory import RunDirectory, jobs_record
from espnet3.run_dir.processes import busy_with, this_process
from espnet3.run_dir.removal import require_not_removed
from espnet3.run_dir.worker_command import WORKER, WorkerArguments, command
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.specs.items import ItemList, ItemRange
from espnet3.specs.models import (
    CUT_SHORT,
    AcceptedJob,
    AcceptedJobs,
    PlannedJob,
    QueuedAhead,
    RunSpec,
    SkippedItem,
    Submission,
    now,
)
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.storage.paths import absolute
from espnet3.storage.permissions import make_folders
from espnet3.submit.launcher import Launcher
from espnet3.submit.typed import typed_command


@dataclass(frozen=True, slots=True)
class Submitted:
    """What a submission came to.

    Attributes:
        run_dir: the run directory, absolute.
        number: the submission's number, or None where nothing had to be submitted.
        ranks: the shards that were submitted.
        job_ids: the scheduler's ids.
        left_alone: rank -> why, for wanted shards that were not submitted (done or live).
        withdrawn: rank -> why, for shards that were done and are computed again (`repair`, or
            `items`).
        further: numbers of the submissions besides `number`, where `overrides` ask for them.
        skipped: for each item that is passed over, which it is and why.
        not_found: rank -> why `skip_failing` skips nothing there.
        results: the file that a finisher, which is queued behind this, collects to; None without.
        stay_skipped: how many items are passed over since an earlier resume, and still are.
    """

    run_dir: str
    number: int | None
    ranks: list[int]
    job_ids: list[str]
    left_alone: dict[int, str]
    withdrawn: dict[int, str] = field(default_factory=dict)
    further: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    not_found: dict[int, str] = field(default_factory=dict)
    stay_skipped: int = 0
    results: str | None = None

    @classmethod
    def nothing(cls, run_dir: str) -> Submitted:
        """That nothing of a run was submitted."""
        return cls(run_dir, None, [], [], {})

    def and_then(self, other: Submitted) -> Submitted:
        """This and a further submission, as one."""
        if self.number is None or other.number is None:
            return other if self.number is None else self
        return replace(
            self,
            ranks=sorted([*self.ranks, *other.ranks]),
            job_ids=[*self.job_ids, *other.job_ids],
            further=[*self.further, other.number, *other.further],
        )


class PlannedSubmission(NamedTuple):
    """What one submission gets: shards, and how they are submitted.

    Attributes:
        config: the parallel config of these shards.
        launcher: made for it.
        ranks: the shards.
        max_array_size: how many tasks one array may have.
        skip: items of them that are passed over.
    """

    config: ParallelConfig
    launcher: Launcher
    ranks: ItemRange | ItemList
    max_array_size: int
    skip: Sequence[SkippedItem] = ()


ONE_BY_ONE = 1000  # results; more than are ever written in one block (decision 0026)


async def array_size(config: ParallelConfig, launcher: Launcher) -> int:
    """How many tasks one array may have: as configured, else as the scheduler says."""
    if not config.job_array:
        return 1
    return config.max_array_size or await launcher.max_array_size()


def make_submission(
    store: Store,
    run: RunSpec,
    planned: PlannedSubmission,
    *,
    number: int,
    errors_from: int = 0,
    of_all: ParallelConfig | None = None,
    code: int | None = None,
    ahead: QueuedAhead | None = None,
) -> Submission:
    """The intent to submit some shards, without script; nothing is written or launched.

    Args:
        store: the run directory.
        run: its run.json.
        planned: which shards, and how.
        number: the submission's number.
        errors_from: recorded errors count from attempts of this submission on.
        of_all: the config of all shards, with the overrides; that of the submission where unset.
        code: number of the record of the source files.
        ahead: where it is a wave that is queued up front.
    """
    config, launcher, ranks = planned.config, planned.launcher, planned.ranks
    return Submission(
        number=number,
        created=now(),
        submitter=this_process(),
        scheduler=config.env,
        n_workers=config.n_workers,
        shards_per_job=config.shards_per_job,
        schedule=config.schedule_of(len(ranks)),
        options=launcher.options,
        parallel=(of_all or config).persisted(),
        worker_command=command(
            shlex.split(launcher.python),
            run.process.flags if run.process is not None else (),
            WORKER,
            WorkerArguments(store.root, number, run_id=run.run_id, trust=config.trust),
        ),
        submit_command=[],
        script="",
        typed=typed_command(),
        log_directory=log_directory_of(store, run, launcher),
        max_errors=config.max_errors,
        errors_from_submission=errors_from,
        code=code,
        usage=config.usage,
        ahead=ahead,
        one_by_one=ONE_BY_ONE,
        skip=[*planned.skip],
        ranks=ranks,
        jobs=_planned_jobs(planned, run, number),
    )  # fmt: skip


def _planned_jobs(planned: PlannedSubmission, run: RunSpec, number: int) -> list[PlannedJob]:
    config, launcher, ranks, max_array_size, _ = planned
    dynamic = config.schedule_of(len(ranks)) == "dynamic"
    n_tasks = (
        min(config.n_workers, len(ranks)) if dynamic else -(-len(ranks) // config.shards_per_job)
    )
    scheduler = get_scheduler(config.env)
    return [
        PlannedJob(
            name=scheduler.unique_name(launcher.job_name_prefix(), run.run_id, number, j),
            log=f"{number:04d}-{j}.{{index}}.log",
            **shape._asdict(),
        )
        for j, shape in enumerate(launcher.shape_jobs(n_tasks, max_array_size))
    ]


async def with_script(submission: Submission, launcher: Launcher) -> Submission:
    """The same submission, with its first job as it will be submitted.

    Raises:
        SchedulerUnavailable: the scheduler does not tell what its form depends on.
    """
    rendered = await launcher.render(submission, submission.jobs[0])
    update = {"submit_command": rendered.command, "script": rendered.script}
    return submission.model_copy(update=update)


def log_directory_of(store: Store, run: RunSpec, launcher: Launcher) -> str:
    """Where the scheduler writes logs: as the options say, else in the run directory.

    Schedulers cannot write to a URL; such a run's logs go to the submitter's folder.
    """
    if launcher.log_directory is not None:
        return absolute(os.path.expanduser(launcher.log_directory))
    if isinstance(store, LocalStore):
        return store.locate(layout.LOGS)
    return absolute(os.path.join("espnet3_logs", run.run_id))


class Overtaken(Exception):
    """Somebody else submitted shards of the run since it was looked at, by this number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


async def submit_planned(
    directory: RunDirectory,
    run: RunSpec,
    planned: Iterable[PlannedSubmission],
    number: int,
    errors_from: int = 0,
    of_all: ParallelConfig | None = None,
    code: int | None = None,
    ahead: QueuedAhead | None = None,
) -> AsyncGenerator[Submitted]:
    """Submit shards of a run whose plan is written, one after the other.

    Args:
        directory: the run directory.
        run: its run.json.
        planned: what to submit.
        number: of the first submission: one more than that of the last one that was seen when the
            ranks were chosen.
        errors_from: recorded errors count from attempts of this submission on.
        of_all: the config that a later resume starts from; that of the submission where unset.
        code: number of the record of the source files.
        ahead: where it is a wave that is queued up front.

    Yields:
        What each came to. What no submission holds when an error ends it is left to a resume.

    Raises:
        Overtaken: another submission took a number; choose the ranks again.
        SubmissionRefused: the scheduler refused a job, or the submission was cancelled meanwhile.
        SchedulerUnavailable: a submit command gave no answer, and its job is not in the queue.
        StoreError: the intent, the log folder or the record of the jobs cannot be written.
    """
    for n, each in enumerate(planned, number):
        yield await _submit_one(directory, run, each, n, errors_from, of_all, code, ahead)


async def _submit_one(
    directory: RunDirectory,
    run: RunSpec,
    planned: PlannedSubmission,
    number: int,
    errors_from: int,
    of_all: ParallelConfig | None,
    code: int | None,
    ahead: QueuedAhead | None,
) -> Submitted:
    """Make one submission.

    The intent is on disk before any job exists, so that a job whose id was never recorded can be
    found by its name. Whatever ends this, a cancellation too, leaves no intent, or an intent with
    the record of all jobs that were accepted.
    """
    submission = make_submission(
        directory.store, run, planned, number=number, errors_from=errors_from, of_all=of_all,
        code=code,
        ahead=ahead,
    )  # fmt: skip
    launcher, accepted = planned.launcher, list[AcceptedJob]()
    submission = await with_script(submission, launcher)
    with busy_with(submission.jobs[0].name):
        claim = asyncio.ensure_future(asyncio.to_thread(_claim, directory, submission))
        try:
            await asyncio.shield(claim)
            async with contextlib.aclosing(launcher.launch(submission)) as launched:
                for _ in submission.jobs:
                    if await _was_cancelled(directory, submission, accepted):
                        words = "the run was cancelled meanwhile"
                        raise SubmissionRefused(submission.scheduler, words)
                    accepted.append(await anext(launched))
            if not launcher.records_jobs:
                record = jobs_record(number, accepted)
                await _was_cancelled(directory, submission, accepted, record)
        except FileTaken:
            raise Overtaken(number) from None
        except BaseException as error:
            # Also where the user presses Ctrl-C: what was accepted by then must be known. This
            # process is about to give up, so it may block the event loop.
            if await _ended_well(claim):
                # What ended it matters more; a job that is not recorded is found by its name.
                with contextlib.suppress(StoreError):
                    directory.publish_first(jobs_record(number, accepted, why_cut_short(error)))
            raise
    if launcher.records_jobs:
        await _was_cancelled(directory, submission, accepted)
    chosen = [rank for rank in planned.ranks if isinstance(rank, int)]
    return Submitted(directory.root, number, chosen, [job.job_id for job in accepted], {})


def why_cut_short(error: BaseException) -> str:
    """What a record of jobs says of what has ended a submission."""
    if isinstance(error, SubmissionRefused):
        return error.words
    return str(error) if isinstance(error, SchedulerUnavailable) else CUT_SHORT


def _claim(directory: RunDirectory, submission: Submission) -> None:
    """Write the intent, for whose number submitters compete.

    Raises:
        FileTaken: another submission has the number.
        StoreError: it cannot be written, or no logs can be.
        RunDirectoryError: somebody removes the run.
    """
    try:
        make_folders(submission.log_directory)
    except OSError as error:
        words = error.strerror or str(error)
        raise StoreError(submission.log_directory, f"no logs can be written: {words}") from None
    if submission.schedule == "dynamic":
        directory.store.prepare([layout.CLAIMS, layout.WORKERS])
    directory.publish(submission)
    require_not_removed(directory)  # whoever removes it looks for this intent now


async def _was_cancelled(
    directory: RunDirectory,
    submission: Submission,
    accepted: list[AcceptedJob],
    record: AcceptedJobs | None = None,
) -> bool:
    """Whether somebody cancelled a submission that is being made; its jobs are cancelled then.

    Who did so could not know of a job that the scheduler accepted after that, or that no record
    told; so a record of all jobs is written before.
    """

    def look() -> bool:
        if record is not None:
            directory.publish_first(record)
        return directory.store.exists(layout.cancellation(submission.number))

    if not await asyncio.to_thread(look):
        return False
    await get_scheduler(submission.scheduler).cancel(accepted)
    return True


async def _ended_well(claim: asyncio.Future[None]) -> bool:
    """Wait for the end of the claim, which a thread goes on with whatever happens here."""
    await asyncio.wait([claim])
    return not claim.cancelled() and claim.exception() is None
