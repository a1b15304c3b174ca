"""Ending a run at once whose code cannot work: no need to spend the allocation on a typo.

Only in a run that finishes itself (decision 0021): elsewhere somebody watches.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from espnet3._structs import Struct
from espnet3.errors import EspnetError, FileTaken, UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process, this_user
from espnet3.run_dir.worker_command import arguments_of
from espnet3.schedulers.base import Scheduler
from espnet3.specs import layout
from espnet3.specs.layout import AttemptFile
from espnet3.specs.models import (
    AcceptedJobs,
    AttemptRecord,
    Cancellation,
    RunSpec,
    Submission,
    WorkerState,
    now,
)
from espnet3.text import one_line
from espnet3.worker.attempt import WORKER_FAILED

log = logging.getLogger("espnet3.worker")
FIRST = 3  # failing shards that have to agree
_MOST_READ = 64  # failed attempts, of any number: each that fails reads them
_LONGEST = 300  # characters of an exception in a cause
# As text, since `re` keeps what it has compiled and hardly any worker needs it.
_PLACE = r'(?m)^[ |]*File "(.+)", line (\d+)'
_OURS = r"/espnet3/(storage|worker)/[^/]+$"
# Raised by the worker about what the user's code returned.
_ABOUT_CODE = frozenset({"EnvironmentFailed", "UnserializableResult"})


class _Failure(Struct):
    """An exception of the user's code: its type, and where it was raised."""

    type: str
    file: str
    line: int


class Common(Struct):
    """What the first failing shards have in common.

    Attributes:
        cause: in words.
        hosts: where it was raised, in these or other shards.
    """

    cause: str
    hosts: frozenset[str]


def common_failure(
    records: Iterable[AttemptRecord], begun: Collection[str] | None = None
) -> Common | None:
    """The exception that the first failing shards of a submission share; None where they do not.

    It is the same where type and place are: the message may name the item.

    Args:
        records: that attempts at its shards failed.
        begun: the attempts that have begun. Those of a process that has begun none failed by one
            failure, that of its environment. None where each process records one of that.

    Example:
        >>> common_failure([]) is None
        True
    """
    ordered = sorted(records, key=lambda record: record.time)
    first: dict[object, AttemptRecord] = {}
    for record in ordered:
        is_alone = begun is None or record.attempt in begun
        key: object = record.rank if is_alone else (record.host, record.pid)
        first.setdefault(key, record)
    found = [*islice(first.values(), FIRST)]
    failures = {_failure(record) for record in found}
    failure = failures.pop() if len(failures) == 1 else None
    if failure is None or len({record.rank for record in found}) < FIRST:
        return None
    hosts = frozenset(record.host for record in ordered if _failure(record) == failure)
    error = found[0].error
    message = one_line(error.message, _LONGEST) if error is not None else ""
    what = f"{failure.type}: {message}" if message else failure.type
    where = f"{failure.file.rpartition('/')[2]}:{failure.line}"
    words = f"{what}, at {where}, in the first three shards that failed, and none is done"
    return Common(words, hosts)


def _failure(record: AttemptRecord) -> _Failure | None:
    """The exception of the user's code that an attempt failed by; None for any other reason."""
    error = record.error
    # Of memory there may be more in the next wave.
    if error is None or error.type == "MemoryError" or record.cause.startswith(WORKER_FAILED):
        return None
    places = re.findall(_PLACE, error.traceback)
    file, line = places[-1] if places else ("", "0")
    if error.type not in _ABOUT_CODE and (not file or re.search(_OURS, file)):
        return None
    return _Failure(error.type, file, int(line))


class EarlyEnd:
    """Ends a submission in which nothing can succeed, and sees that somebody has ended it.

    Whatever the storage or the scheduler does not tell or do lets the worker go on.
    """

    def __init__(
        self, directory: RunDirectory, run: RunSpec, submission: Submission, scheduler: Scheduler
    ) -> None:
        self._directory, self._run = directory, run
        self._submission, self._scheduler = submission, scheduler
        self._number = submission.number
        self._is_judged = False

    @classmethod
    def of(
        cls, directory: RunDirectory, run: RunSpec, submission: Submission, scheduler: Scheduler
    ) -> EarlyEnd | None:
        """What ends a submission early; None where somebody watches it."""
        if not submission.finishes_itself:
            return None
        return cls(directory, run, submission, scheduler)

    def is_cancelled(self) -> bool:
        """Whether the submission was cancelled; said in the log."""
        try:
            cancelled = self._directory.store.exists(layout.cancellation(self._number))
        except EspnetError:
            return False
        if cancelled:
            log.warning("submission %04d was cancelled: this worker ends", self._number)
        return cancelled

    def look(self) -> bool:
        """Cancel the submission if a shard that has just failed shows that all will.

        Returns:
            Whether it is cancelled by now.
        """
        try:
            cause = None if self._is_judged else self._why_hopeless()
            if cause is None:
                return self.is_cancelled()
            note = Cancellation(number=self._number, created=now(), by=this_process(), cause=cause)
            self._directory.require_run(self._run.run_id)
            try:
                self._directory.publish(note)
            except FileTaken:  # who was first sees to the jobs
                return self.is_cancelled()
        except EspnetError as error:
            log.warning("whether the run can go on is not known: %s", error)
            return False
        log.error("the run is stopped: %s", cause)
        self._cancel_jobs()
        return True

    def _why_hopeless(self) -> str | None:
        store = self._directory.store
        for folder in (layout.RECEIPTS, layout.ATTEMPTS):  # what other hosts wrote a moment ago
            store.refresh(folder)
        if any(layout.parse_receipt(name) for name in store.names(layout.RECEIPTS)):
            self._is_judged = True
            return None
        own = [
            file
            for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS))
            if file is not None and layout.submission_of(file.attempt) == self._number
        ]
        failed = [file for file in own if file.event == "failed"]
        if len(failed) < FIRST:
            return None
        is_static = self._submission.schedule == "static"
        begun = {file.attempt for file in own if file.event == "started"} if is_static else None
        records = [*self._read(sorted(failed)[:_MOST_READ])]
        common = common_failure(records, begun)
        if common is None:
            return None
        if len(common.hosts) == 1 and not common.hosts.issuperset(self._busy_hosts(own)):
            log.warning("all that failed did so on this host, and others are at work")
            return None
        return common.cause

    def _read(self, files: Iterable[AttemptFile]) -> Iterator[AttemptRecord]:
        for file in files:
            yield self._directory.read(AttemptRecord, layout.attempt_record(*file))

    def _busy_hosts(self, own: Iterable[AttemptFile]) -> Iterator[str]:
        """The hosts that are at shards of the submission: what fails on one may work there."""
        if self._submission.schedule == "static":
            files = [*own]
            over = {file.attempt for file in files if file.event != "started"}
            at_work = (file for file in files if file.attempt not in over)
            yield from (record.host for record in self._read(islice(at_work, _MOST_READ)))
            return
        names = map(layout.parse_worker, self._directory.store.names(layout.WORKERS))
        workers = (n for n in names if n is not None and layout.submission_of(n) == self._number)
        for name in islice(workers, _MOST_READ):
            state = self._directory.read(WorkerState, layout.worker(name))
            if not state.ended and state.rank is not None:
                yield state.process.host

    def _cancel_jobs(self) -> None:
        """Ask the scheduler to end the submission's jobs; this process is of one of them."""
        import asyncio  # what other workers need not load

        try:
            asyncio.run(self._ask(self._recorded()))
        except (EspnetError, OSError, RuntimeError) as error:
            log.warning("its jobs cannot be cancelled from here: %s", one_line(str(error)))

    def _recorded(self) -> AcceptedJobs | None:
        """The record of the submission's jobs, if there is one yet.

        Raises:
            UsageError: they work in another directory, of which this is a copy.
        """
        there, here = arguments_of(self._submission.worker_command).run, self._directory.root
        if os.path.realpath(there) != os.path.realpath(here):
            raise UsageError(f"{here}: is not the directory that its jobs work in")
        path = layout.accepted_jobs(self._number)
        if not self._directory.store.exists(path):
            return None
        self._directory.require_files([path])
        return self._directory.read(AcceptedJobs, path)

    async def _ask(self, recorded: AcceptedJobs | None) -> None:
        from espnet3.schedulers.ownership import as_recorded, is_own_job

        submission = self._submission
        found = await self._scheduler.find_of(submission, this_user())
        jobs = as_recorded(found, submission, recorded)
        positions = {job.name: position for position, job in enumerate(submission.jobs)}
        own = [job for job in jobs if is_own_job(self._run, submission, positions[job.name])]
        if own:
            await self._scheduler.cancel(own)
