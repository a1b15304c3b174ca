"""From receipts, attempt records and the scheduler's word to one state for each shard. Pure."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import KnownSubmission, TaskKey, TaskState
from espnet3.specs.layout import AttemptFile, submission_of
from espnet3.specs.models import AttemptRecord, Submission

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
        attempts: names of attempt records.
        read_record: reads one of them.
        submissions: in the order of their numbers.
        being_submitted: numbers of submissions without recorded jobs whose submitter still lives.
        cancelled: numbers of submissions that somebody cancelled.
        tasks: what the scheduler says; None where it did not answer.
        withdrawn: ranks whose receipt was withdrawn -> generation that the next one will have.
    """

    world_size: int
    receipts: Collection[int]
    attempts: Iterable[AttemptFile]
    read_record: Callable[[AttemptFile], AttemptRecord | None]
    submissions: Sequence[KnownSubmission]
    being_submitted: Collection[int]
    cancelled: Collection[int]
    tasks: Mapping[TaskKey, TaskState] | None
    withdrawn: Mapping[int, int] = MappingProxyType({})


def shard_states(evidence: Evidence) -> list[ShardStatus]:
    """The state of every shard, by rank."""
    holders: dict[int, list[tuple[KnownSubmission, int]]] = {}  # rank -> submissions and tasks
    for known in evidence.submissions:
        for rank, task in known.submission.tasks_by_rank().items():
            holders.setdefault(rank, []).append((known, task))
    attempts: dict[int, list[AttemptFile]] = {}
    for file in evidence.attempts:
        if file.rank not in evidence.receipts:
            attempts.setdefault(file.rank, []).append(file)
    return [
        _shard_state(evidence, rank, holders.get(rank, []), attempts.get(rank, []))
        for rank in range(evidence.world_size)
    ]


def _shard_state(
    evidence: Evidence,
    rank: int,
    holders: Sequence[tuple[KnownSubmission, int]],
    attempts: Sequence[AttemptFile],
) -> ShardStatus:
    """The state of one shard: by its newest submission, unless an older one is still at it."""
    newest: ShardStatus | None = None
    place: tuple[int, int] | None = None
    generation = evidence.withdrawn.get(rank, 1)
    for known, task in reversed(holders):
        number = known.submission.number
        here = (number, task)
        place = place or here
        if rank in evidence.receipts:
            return ShardStatus(rank, "done", "", *here)
        own = [file for file in attempts if submission_of(file.attempt) == number]
        last = _last_record(evidence, own)
        if last is not None and last.generation < generation:
            continue  # it had its turn before the receipt was withdrawn, and makes no new one
        found = ShardStatus(rank, *_unfinished(evidence, known, task, last), *here)
        if found.state in LIVE:
            return found
        newest = newest or found
    if newest is not None:
        return newest
    if rank in evidence.receipts:
        return ShardStatus(rank, "done")
    last = _last_record(evidence, attempts)
    if rank in evidence.withdrawn and (last is None or last.generation < generation):
        return ShardStatus(rank, "pending", "its receipt was withdrawn", *(place or (None, None)))
    if last is None:
        return ShardStatus(rank, "pending", "not submitted yet")
    return ShardStatus(rank, *_by_record(last, None, None))


def _last_record(evidence: Evidence, files: Sequence[AttemptFile]) -> AttemptRecord | None:
    """What is known last of some attempts: the end of the newest, else its start."""
    records = [evidence.read_record(file) for file in files]
    found = [record for record in records if record is not None]
    # A requeue makes two attempts of one submission; an attempt's own start comes before its end.
    found.sort(key=lambda record: (record.generation, record.time, record.event != "started"))
    return found[-1] if found else None


def _unfinished(
    evidence: Evidence,
    entry: KnownSubmission,
    task: int,
    last: AttemptRecord | None,
) -> tuple[State, str]:
    """State and cause of a shard without a receipt, as far as one submission is concerned."""
    submission, number = entry.submission, entry.submission.number
    told = evidence.tasks.get((number, task)) if evidence.tasks is not None else None
    where = _where(entry, task)
    if told is not None and told.state == "queued":
        return "queued", _clauses(where, told.reason)
    if told is not None and told.state == "running":
        if last is None:
            return "queued", _clauses(where, "its task is starting, or busy with another shard")
        if last.event == "interrupted":
            # Not over: its task is being stopped, or was requeued and begins again.
            done = f"{last.items_done} items done"
            return "running", _clauses(where, f"was interrupted by {last.cause}", done)
        return _by_record(last, None, submission, running=True)
    if last is not None and last.event != "started":
        return _by_record(last, told, submission, cancelled=number in evidence.cancelled)
    if evidence.tasks is None:
        if last is not None:
            return "running", _clauses(f"since {last.time:%Y-%m-%d %H:%M} on {last.host}",
                                       "the scheduler does not answer")  # fmt: skip
        return "queued", _clauses(where, "the scheduler does not answer")
    if number in evidence.being_submitted:
        by = submission.submitter
        return "queued", f"being submitted by process {by.pid} on {by.host}"
    if told is None and last is None:
        if number in evidence.cancelled:
            return "interrupted", "cancelled"
        if submission.job_of(task).name not in entry.job_ids():
            refused = entry.recorded.refused if entry.recorded is not None else None
            if refused:
                return "pending", _clauses("refused by the scheduler", refused)
            return "pending", f"submission {number:04d} did not reach the scheduler"
    if told is not None and told.stopped:
        return "interrupted", _clauses(told.stopped, where, told.reason)
    if number in evidence.cancelled:
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


def _by_record(
    last: AttemptRecord,
    told: TaskState | None,
    submission: Submission | None,
    *,
    running: bool = False,
    cancelled: bool = False,
) -> tuple[State, str]:
    """State and cause from an attempt record."""
    if last.event == "failed":
        return "failed", last.cause
    if last.event == "interrupted":
        cause = told.stopped if told is not None else ""
        if not cause and cancelled:
            cause = "cancelled"
        elif not cause and submission is not None and _beyond_walltime(last, submission):
            cause = "time limit"
        return "interrupted", _clauses(cause, last.cause, f"{last.items_done} items done")
    if running:
        return "running", f"since {last.time:%Y-%m-%d %H:%M} on {last.host}"
    return "lost", f"attempt {last.attempt} on {last.host} ended without a word"


def _beyond_walltime(last: AttemptRecord, submission: Submission) -> bool:
    """Whether an attempt was interrupted at the job's time limit, by the worker's own clock."""
    scheduler = get_scheduler(submission.scheduler)
    limit = scheduler.walltime_seconds(submission.options.get("walltime"))
    return limit is not None and last.elapsed >= limit - 5


def _where(entry: KnownSubmission, task: int) -> str:
    """The task as the scheduler's commands name it."""
    job = entry.submission.job_of(task)
    job_id = entry.job_ids().get(job.name)
    if job_id is None:
        return ""
    index = None if job.n_tasks == 1 else task - job.first_task
    return f"job {get_scheduler(entry.submission.scheduler).task_name(job_id, index)}"


def _clauses(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
