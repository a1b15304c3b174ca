"""From receipts, attempt records and the scheduler's word to one state for each shard. Pure."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Literal, NamedTuple

from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import KnownSubmission, Scheduler, TaskKey, TaskState
from espnet3.specs.layout import AttemptFile, submission_of
from espnet3.specs.models import AttemptRecord, PlannedJob

State = Literal["pending", "queued", "running", "done", "failed", "interrupted", "lost"]
STATES: tuple[State, ...] = (
    "done",
    "running",
    "queued",
    "pending",
    "interrupted",
    "failed",
    "lost",
)
LIVE: frozenset[State] = frozenset({"queued", "running"})

# Signals that end a process without a word. The first ones are sent by the kernel, an administrator
# or the scheduler; the others come from native code in the process itself.
_FROM_OUTSIDE = {
    int(signal.SIGKILL): "SIGKILL, often for want of memory",
    **{int(number): number.name for number in (signal.SIGTERM, signal.SIGINT)},
    **{int(number): number.name for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)},
}
_CRASHES = {
    int(number): number.name
    for number in (
        signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS,
        signal.SIGTRAP,
    )
}  # fmt: skip


class ShardStatus(NamedTuple):
    """The state of one shard.

    Attributes:
        rank: the shard.
        state: one of `STATES`.
        cause: why, for a person; "" where there is nothing to say.
        submission: number of the last submission that holds it, or None.
        task: its task there, or None.
    """

    rank: int
    state: State
    cause: str = ""
    submission: int | None = None
    task: int | None = None


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The states of all shards of a run, by rank.

    Attributes:
        run_dir: the run directory.
        shards: one entry for each rank, in order.
        scheduler_problem: why the scheduler could not be asked, or None. The states are then what
            the run directory alone can tell.
    """

    run_dir: str
    shards: list[ShardStatus]
    scheduler_problem: str | None = None

    def __repr__(self) -> str:
        # asyncio.run of Python 3.11 makes the repr of what it returns, and throws it away.
        return f"RunStatus({self.run_dir!r}, {self.counts()!r})"

    def counts(self) -> dict[State, int]:
        """How many shards are in each state that occurs."""
        found = Counter(shard.state for shard in self.shards)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def done(self) -> bool:
        """Whether every shard has a receipt."""
        return all(shard.state == "done" for shard in self.shards)

    @property
    def live(self) -> bool:
        """Whether anything is still queued or running."""
        return any(shard.state in LIVE for shard in self.shards)

    def unfinished(self) -> dict[int, str]:
        """Rank -> state and cause, for every shard that is not done."""
        return {
            s.rank: f"{s.state}: {s.cause}" if s.cause else s.state
            for s in self.shards
            if s.state != "done"
        }


class Evidence(NamedTuple):
    """All that is known of a run.

    Attributes:
        world_size: how many shards it has.
        receipts: the ranks that have one which counts.
        records: what could be read of the attempt records of shards that have none.
        submissions: in the order of their numbers.
        being_submitted: numbers of submissions without recorded jobs whose submitter still lives.
        cancelled: numbers of submissions that somebody cancelled.
        tasks: what the scheduler says; None where it did not answer.
        withdrawn: ranks whose receipt was withdrawn -> generation that the next one will have.
    """

    world_size: int
    receipts: Container[int]
    records: Mapping[AttemptFile, AttemptRecord]
    submissions: Sequence[KnownSubmission]
    being_submitted: Container[int]
    cancelled: Container[int]
    tasks: Mapping[TaskKey, TaskState] | None
    withdrawn: Mapping[int, int] = MappingProxyType({})


def shard_states(evidence: Evidence) -> list[ShardStatus]:
    """The state of every shard, by rank.

    That is its state in the newest submission that holds it, unless an older one is still at it.
    """
    world_size, receipts, withdrawn = evidence.world_size, evidence.receipts, evidence.withdrawn
    shards: list[ShardStatus | None] = [None] * world_size
    overruled: dict[int, tuple[int, int]] = {}  # rank -> submission and task
    last = _last_records(evidence.records)
    for known in reversed(evidence.submissions):
        holder = _Holder(evidence, known)
        number = holder.number
        for rank, task, job in known.submission.places():
            if rank >= world_size:
                continue
            before = shards[rank]
            if rank in receipts:
                shards[rank] = before or ShardStatus(rank, "done", "", number, task)
                continue
            if before is not None and before.state in LIVE:
                continue
            record = last[rank].get(number) if rank in last else None
            if record is not None and record.generation < withdrawn.get(rank, 1):
                # It had its turn before the receipt was withdrawn, and makes no new one.
                overruled.setdefault(rank, (number, task))
                continue
            state, cause = holder.unfinished(task, job, record)
            if before is None or state in LIVE:
                shards[rank] = ShardStatus(rank, state, cause, number, task)
    return [
        shard or _held_by_none(evidence, rank, last.get(rank, {}), overruled.get(rank))
        for rank, shard in enumerate(shards)
    ]


def _last_records(
    records: Mapping[AttemptFile, AttemptRecord],
) -> dict[int, dict[int, AttemptRecord]]:
    """Rank -> submission number -> what is known last of the shard's attempts there."""
    last: dict[int, dict[int, AttemptRecord]] = {}
    for file, record in records.items():
        own, number = last.setdefault(file.rank, {}), submission_of(file.attempt)
        own[number] = max(own.get(number, record), record, key=_order)
    return last


def _order(record: AttemptRecord) -> tuple[int, datetime, bool]:
    # A requeue makes two attempts of one submission; an attempt's own start comes before its end.
    return record.generation, record.time, record.event != "started"


def _held_by_none(
    evidence: Evidence,
    rank: int,
    own: Mapping[int, AttemptRecord],
    place: tuple[int, int] | None,
) -> ShardStatus:
    """The state of a shard of which no submission tells one."""
    if rank in evidence.receipts:
        return ShardStatus(rank, "done")
    last = max(own.values(), key=_order, default=None)
    generation = evidence.withdrawn.get(rank, 1)
    if rank in evidence.withdrawn and (last is None or last.generation < generation):
        return ShardStatus(rank, "pending", "its receipt was withdrawn", *(place or (None, None)))
    if last is None:
        return ShardStatus(rank, "pending", "not submitted yet")
    return ShardStatus(rank, *_by_record(last))


class _Holder:
    """A submission, and what can be said of the shards that it holds."""

    def __init__(self, evidence: Evidence, known: KnownSubmission) -> None:
        self._submission, self._recorded = known
        self.number = self._submission.number
        self._tasks = evidence.tasks
        self._job_ids = known.job_ids()
        self._being_submitted = self.number in evidence.being_submitted
        self._cancelled = self.number in evidence.cancelled

    @cached_property
    def _scheduler(self) -> Scheduler:
        return get_scheduler(self._submission.scheduler)

    @cached_property
    def _walltime(self) -> float | None:
        return self._scheduler.walltime_seconds(self._submission.options.get("walltime"))

    def unfinished(
        self, task: int, job: PlannedJob, last: AttemptRecord | None
    ) -> tuple[State, str]:
        """State and cause of a shard without a receipt, as far as this submission is concerned."""
        told = self._tasks.get((self.number, task)) if self._tasks is not None else None
        where = self._where(task, job)
        if told is not None and told.state == "queued":
            return "queued", _clauses(where, told.reason)
        if told is not None and told.state == "running":
            if last is None:
                return "queued", _clauses(where, "its task is starting, or busy with another shard")
            if last.event == "interrupted":
                # Not over: its task is being stopped, or was requeued and begins again.
                done = f"{last.items_done} items done"
                return "running", _clauses(where, f"was interrupted by {last.cause}", done)
            return _by_record(last, running=True)
        if last is not None and last.event != "started":
            return _by_record(last, why_stopped=self._why_stopped(last, told))
        if self._tasks is None:
            if last is not None:
                return "running", _clauses(f"since {last.time:%Y-%m-%d %H:%M} on {last.host}",
                                           "the scheduler does not answer")  # fmt: skip
            return "queued", _clauses(where, "the scheduler does not answer")
        if self._being_submitted:
            by = self._submission.submitter
            return "queued", f"being submitted by process {by.pid} on {by.host}"
        if told is None and last is None:
            if self._cancelled:
                return "interrupted", "cancelled"
            if job.name not in self._job_ids:
                refused = self._recorded.refused if self._recorded is not None else None
                if refused:
                    return "pending", _clauses("refused by the scheduler", refused)
                return "pending", f"submission {self.number:04d} did not reach the scheduler"
        if told is not None and told.stopped:
            return "interrupted", _clauses(told.stopped, where, told.reason)
        if self._cancelled:
            return "interrupted", _clauses("cancelled", where)
        said = f"{told.word} {told.reason}".strip() if told is not None else ""
        ended = "its task ended before the shard began"
        if last is not None:
            ended = f"attempt {last.attempt} on {last.host} ended without a word"
        if told is not None and told.signal in _FROM_OUTSIDE:
            killed = f"killed by {_FROM_OUTSIDE[told.signal]}"
            return "interrupted", _clauses(killed, ended, where)
        if told is not None and told.signal in _CRASHES:
            return "lost", _clauses(f"crashed by {_CRASHES[told.signal]}", ended, where)
        return "lost", _clauses(ended, where, said)

    def _where(self, task: int, job: PlannedJob) -> str:
        """The task as the scheduler's commands name it."""
        job_id = self._job_ids.get(job.name)
        if job_id is None:
            return ""
        index = None if job.n_tasks == 1 else task - job.first_task
        return f"job {self._scheduler.task_name(job_id, index)}"

    def _why_stopped(self, last: AttemptRecord, told: TaskState | None) -> str:
        """Who interrupted an attempt, as far as anybody but the attempt itself knows."""
        if told is not None and told.stopped:
            return told.stopped
        if self._cancelled:
            return "cancelled"
        # The job's time limit, by the worker's own clock.
        late = self._walltime is not None and last.elapsed >= self._walltime - 5
        return "time limit" if late else ""


def _by_record(
    last: AttemptRecord, *, running: bool = False, why_stopped: str = ""
) -> tuple[State, str]:
    """State and cause from an attempt record."""
    if last.event == "failed":
        return "failed", last.cause
    if last.event == "interrupted":
        return "interrupted", _clauses(why_stopped, last.cause, f"{last.items_done} items done")
    if running:
        return "running", f"since {last.time:%Y-%m-%d %H:%M} on {last.host}"
    return "lost", f"attempt {last.attempt} on {last.host} ended without a word"


def _clauses(*parts: str) -> str:
    return ", ".join(filter(None, parts))
