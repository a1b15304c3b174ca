"""From receipts, attempt records and the scheduler's word to one state for each shard. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any, cast

from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import Scheduler, TaskState
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.layout import AttemptFile, submission_of
from espnet3.specs.models import CUT_SHORT, AttemptRecord, Claim, PlannedJob
from espnet3.status.causes import CRASHES, FROM_OUTSIDE, kind_of_end, kind_of_failure
from espnet3.status.evidence import Evidence, Found
from espnet3.status.run_status import LIVE, Shards, ShardStatus, State
from espnet3.text import counted

_LEFT_OVER = "its workers ended before they came to it"


def shard_states(evidence: Evidence) -> Shards:
    """The state of every shard.

    That is its state in the newest submission that holds it, unless an older one is still at it.
    """
    receipts = evidence.receipts
    states: list[State | None] = [None] * evidence.world_size
    for rank in receipts:
        states[rank] = "done"
    holders = [_Holder(evidence, known) for known in reversed(evidence.submissions)]
    queued_in: dict[int, _Holder] = {}  # rank -> the submission in which it waits
    queued_as: dict[int, int] = {}  # rank -> its task there
    told: dict[int, ShardStatus] = {}  # the others that are not done
    overruled: dict[int, tuple[int, int]] = {}  # rank -> submission and task
    last = _last_records(evidence.records, evidence.claims)
    for holder in holders:
        number = holder.number
        for rank, task, job in holder.places(receipts, last):
            if not holder.is_to_compute(rank):
                continue
            before = states[rank] if rank < len(states) else "done"
            if before == "done" or before in LIVE:
                continue
            if rank not in last:
                # That is most of what is unfinished; it is put into words when it is looked at.
                found = holder.tasks.get(task)
                if found is not None and found.state == "queued":
                    states[rank], queued_in[rank], queued_as[rank] = "queued", holder, task
                    continue
            record = last[rank].get(number) if rank in last else None
            if record is not None and record.generation < evidence.withdrawn.get(rank, 1):
                # It had its turn before the receipt was withdrawn, and makes no new one.
                overruled.setdefault(rank, (number, task))
                continue
            one = holder.unfinished(task, job, record)
            if before is None or one.state in LIVE:
                states[rank] = one.state
                told[rank] = one.status(rank, number, task, record)
    if None in states:
        for rank in (rank for rank, state in enumerate(states) if state is None):
            own, place = last.get(rank, {}), overruled.get(rank)
            told[rank] = _held_by_none(evidence, rank, own, place)
            states[rank] = told[rank].state

    def describe(rank: int) -> ShardStatus:
        if (holder := queued_in.get(rank)) is not None:
            return holder.queued(rank, queued_as[rank])
        if (found := told.get(rank)) is not None:
            return found
        for holder in holders:
            if (task := holder.task_of(rank)) is not None:
                return ShardStatus(rank, "done", "", holder.number, task)
        return ShardStatus(rank, "done")

    return Shards(cast("list[State]", states), describe)


def _last_records(
    records: Mapping[AttemptFile, AttemptRecord], claims: Mapping[int, Sequence[Claim]]
) -> dict[int, dict[int, AttemptRecord]]:
    """Rank -> submission number -> what is known last of the shard's attempts there."""
    last: dict[int, dict[int, AttemptRecord]] = {}
    for rank, own_claims in claims.items():
        last[rank] = {submission_of(claim.attempt): _as_started(claim) for claim in own_claims}
    for file, record in records.items():
        own, number = last.setdefault(file.rank, {}), submission_of(file.attempt)
        own[number] = max(own.get(number, record), record, key=_order)
    return last


def _as_started(claim: Claim) -> AttemptRecord:
    """A claim as the record in whose place it stands."""
    return AttemptRecord(
        event="started",
        rank=claim.rank,
        attempt=claim.attempt,
        generation=claim.generation,
        task=claim.task,
        job_id=claim.job_id,
        host=claim.process.host,
        pid=claim.process.pid,
        time=claim.time,
    )


def _order(record: AttemptRecord) -> tuple[int, datetime, bool]:
    # A requeue makes two attempts of one submission; an attempt's own start comes before its end.
    return record.generation, record.time, record.event != "started"


def _held_by_none(
    evidence: Evidence,
    rank: int,
    own: Mapping[int, AttemptRecord],
    place: tuple[int, int] | None,
) -> ShardStatus:
    """The state of a shard without a receipt of which no submission tells one."""
    last = max(own.values(), key=_order, default=None)
    generation = evidence.withdrawn.get(rank, 1)
    if rank in evidence.withdrawn and (last is None or last.generation < generation):
        withdrawn = Found("pending", "its receipt was withdrawn", "not-submitted")
        return withdrawn.status(rank, *(place or (None, None)))
    if last is None:
        return Found("pending", "not submitted yet", "not-submitted").status(rank)
    return _by_record(last).status(rank, last=last)


class _Holder:
    """A submission, and what can be said of the shards that it holds."""

    def __init__(self, evidence: Evidence, known: KnownSubmission) -> None:
        self.submission, self._recorded = known
        self.number = self.submission.number
        self._answered = evidence.tasks is not None
        self.tasks = (evidence.tasks or TaskStates()).of(self.number)
        self._job_ids = known.job_ids()
        self._being_submitted = self.number in evidence.being_submitted
        self._cancelled = self.number in evidence.cancelled
        self._cancelled_words = _clauses("cancelled", evidence.why_cancelled.get(self.number, ""))
        self._chosen = evidence.chosen.get(self.number)
        self._claims = evidence.claims
        self._receipts = evidence.receipts
        self._over = {file.attempt for file in evidence.records if file.event != "started"}

    @cached_property
    def _scheduler(self) -> Scheduler:
        return get_scheduler(self.submission.scheduler)

    @cached_property
    def _walltime(self) -> float | None:
        return self._scheduler.walltime_seconds(self.submission.options.get("walltime"))

    @cached_property
    def _some_are_done(self) -> bool:
        return any(rank in self._receipts for rank in self.submission.ranks.plain())

    @cached_property
    def _position_of(self) -> Callable[[int], int | None]:
        """Rank -> position among the submission's ranks; the first, if there were two."""
        ranks: Any = self.submission.ranks.plain()
        if isinstance(ranks, range):
            return lambda rank: ranks.index(rank) if rank in ranks else None
        positions = zip(reversed(ranks), reversed(range(len(ranks))), strict=True)
        return dict(positions).get

    def places(
        self, receipts: Collection[int], last: dict[int, dict[int, AttemptRecord]]
    ) -> Iterator[tuple[int, int, PlannedJob]]:
        """Each rank that has no receipt, with the task that computes it, and that task's job.

        Of a dynamic submission that is who claimed it, and is at it if somebody is; for what is
        not claimed any task may stand that lives, if there is one.
        """
        submission = self.submission
        if submission.schedule == "static":
            yield from submission.places(but=receipts)
            return
        running = {task for task, told in self.tasks.items() if told.state == "running"}
        queued = (task for task, told in self.tasks.items() if told.state == "queued")
        any_task = next(iter(running), next(queued, 0))
        ranks: Any = submission.ranks.plain()
        for rank in ranks:
            if rank in receipts:
                continue
            task = any_task
            if rank in last and self.number in last[rank]:
                own = [
                    claim
                    for claim in self._claims.get(rank, ())
                    if submission_of(claim.attempt) == self.number
                ]
                at_it = [c for c in own if c.task in running and c.attempt not in self._over]
                if at_it:
                    last[rank][self.number] = _as_started(at_it[-1])
                known = last[rank][self.number].task
                task = known if known is not None and known < submission.n_tasks else any_task
            yield rank, task, submission.job_of(task)

    def is_to_compute(self, rank: int) -> bool:
        """Whether a shard is the submission's to compute, as far as somebody decided that."""
        return self._chosen is None or rank in self._chosen

    def task_of(self, rank: int) -> int | None:
        """The task that computes a rank; None where the submission lacks the rank."""
        if self.submission.schedule == "dynamic":
            return None
        position = self._position_of(rank)
        return None if position is None else position // self.submission.shards_per_job

    def queued(self, rank: int, task: int) -> ShardStatus:
        """A shard that waits, and of which nothing else is known."""
        found = self.unfinished(task, self.submission.job_of(task), None)
        return found.status(rank, self.number, task)

    @cached_property
    def _others_go_on(self) -> bool:
        """Whether workers live, or will, that take over what one of them leaves."""
        living = any(told.state != "ended" for _, told in self.tasks.items())
        return living and self.submission.schedule == "dynamic" and not self._cancelled

    def unfinished(self, task: int, job: PlannedJob, last: AttemptRecord | None) -> Found:
        """What is known of a shard without a receipt, as far as this submission is concerned."""
        found = self._as_its_task(task, job, last)
        if found.state in ("interrupted", "lost") and self._others_go_on:
            return Found("queued", _clauses("left to the other workers", found.cause))
        return found

    def _as_its_task(self, task: int, job: PlannedJob, last: AttemptRecord | None) -> Found:
        told = self.tasks.get(task)
        where = self._where(task, job)
        if told is not None and told.state != "ended":
            return self._live(told, where, last)
        return self._ended(task, job, told, where, last)

    def _live(self, told: TaskState, where: str, last: AttemptRecord | None) -> Found:
        """What is known where the scheduler says that the task waits or runs."""
        if told.state == "queued":
            return Found("queued", _clauses(where, told.reason))
        if last is None:
            busy = "its task is starting, or busy with another shard"
            return Found("queued", _clauses(where, busy))
        if last.event == "interrupted":
            # Not over: its task is being stopped, or was requeued and begins again.
            done = f"{counted(last.items_done, 'item')} done"
            return Found("running", _clauses(where, f"was interrupted by {last.cause}", done))
        return _by_record(last, running=True)

    def _ended(
        self,
        task: int,
        job: PlannedJob,
        told: TaskState | None,
        where: str,
        last: AttemptRecord | None,
    ) -> Found:
        """What is known where the scheduler does not say that the task waits or runs.

        The attempt's own word counts most, then the scheduler's, then a signal.
        """
        if last is not None and last.event != "started":
            return _by_record(last, why_stopped=self._why_stopped(last, told))
        if not self._answered:
            silent = "the scheduler does not answer"
            if last is not None:
                since = f"since {last.time:%Y-%m-%d %H:%M} on {last.host}"
                return Found("running", _clauses(since, silent))
            return Found("queued", _clauses(where, silent))
        if self._being_submitted:
            by = self.submission.submitter
            return Found("queued", f"being submitted by process {by.pid} on {by.host}")
        if (told is None or not told.begun) and last is None:
            if self._cancelled:
                return Found("interrupted", self._cancelled_words, "cancelled")
            if job.name not in self._job_ids:
                return self._not_accepted()
        if last is None and self._is_left_over(told):
            return Found("pending", _clauses(_LEFT_OVER, where), "not-begun")
        if told is not None and told.stopped:
            kind = kind_of_end(told.stopped, told, said=False)
            return Found("interrupted", _clauses(self._stopped(told), where, told.reason), kind)
        if self._cancelled:
            return Found("interrupted", _clauses(self._cancelled_words, where), "cancelled")
        return self._without_a_word(told, where, last)

    def _is_left_over(self, told: TaskState | None) -> bool:
        """Whether workers began to share the shards, and came to their end before this one.

        What ended one of them says nothing of a shard that none was at.
        """
        if self.submission.schedule != "dynamic" or self._cancelled:
            return False
        stopped = told.stopped if told is not None else ""
        return self._some_are_done if not stopped else stopped != "cancelled"

    def _without_a_word(
        self, told: TaskState | None, where: str, last: AttemptRecord | None
    ) -> Found:
        """What is known of a task that has ended, where nobody says who stopped it."""
        said = f"{told.word} {told.reason}".strip() if told is not None else ""
        ended = "its task ended before the shard began"
        if told is not None and not told.begun:
            ended = "its task was never started"
        if last is not None:
            ended = f"attempt {last.attempt} on {last.host} ended without a word"
        kind = kind_of_end("", told, said=False)
        if told is not None and told.signal in FROM_OUTSIDE:
            killed = f"killed by {FROM_OUTSIDE[told.signal]}"
            return Found("interrupted", _clauses(killed, ended, where), kind)
        if told is not None and told.signal in CRASHES:
            return Found("lost", _clauses(f"crashed by {CRASHES[told.signal]}", ended, where), kind)
        return Found("lost", _clauses(ended, where, said), kind)

    def _not_accepted(self) -> Found:
        """Why a job of the submission has no id."""
        words = self._recorded.refused if self._recorded is not None else None
        if not words:
            words = f"submission {self.number:04d} did not reach the scheduler"
        elif words == CUT_SHORT:
            words = f"submission {self.number:04d} was cut short"
        # Our own words begin with the scheduler's name: it gave no answer, or was not to be had.
        elif not words.startswith(f"{self.submission.scheduler}: "):
            return Found("pending", _clauses("refused by the scheduler", words), "refused")
        return Found("pending", words, "not-submitted")

    def _where(self, task: int, job: PlannedJob) -> str:
        """The task as the scheduler's commands name it."""
        job_id = self._job_ids.get(job.name)
        if job_id is None:
            return ""
        index = None if job.n_tasks == 1 else task - job.first_task
        return f"job {self._scheduler.task_name(job_id, index)}"

    def _stopped(self, told: TaskState) -> str:
        """What stopped a task, in the scheduler's words, or in those of who asked it to."""
        return self._cancelled_words if told.stopped == "cancelled" else told.stopped

    def _why_stopped(self, last: AttemptRecord, told: TaskState | None) -> str:
        """Who interrupted an attempt, as far as anybody but the attempt itself knows."""
        if told is not None and told.stopped:
            return self._stopped(told)
        if self._cancelled:
            return self._cancelled_words
        # The job's time limit, by the worker's own clock.
        late = self._walltime is not None and last.elapsed >= self._walltime - 5
        return "time limit" if late else ""


def _by_record(last: AttemptRecord, *, running: bool = False, why_stopped: str = "") -> Found:
    """What an attempt record tells."""
    if last.event == "failed":
        return Found("failed", last.cause, kind_of_failure(last))
    if last.event == "interrupted":
        done = f"{counted(last.items_done, 'item')} done"
        kind = kind_of_end(why_stopped, None, said=True)
        return Found("interrupted", _clauses(why_stopped, last.cause, done), kind)
    if running:
        return Found("running", f"since {last.time:%Y-%m-%d %H:%M} on {last.host}")
    ended = f"attempt {last.attempt} on {last.host} ended without a word"
    return Found("lost", ended, "silent")


def _clauses(*parts: str) -> str:
    return ", ".join(filter(None, parts))
