"""All that records say of a run's attempts, put together."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from espnet3.errors import EspnetError
from espnet3.redaction import masked
from espnet3.report.model import Attempt, Failure, Outcome
from espnet3.run_dir.claims import claim_names
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.receipts import Receipts
from espnet3.specs import layout
from espnet3.specs.codec import Model
from espnet3.specs.models import AttemptRecord, Claim, PartialReceipt, Receipt, Submission, Usage
from espnet3.status.observation import Observation
from espnet3.status.worker_signs import WorkerSign
from espnet3.storage.concurrency import gather
from espnet3.text import one_line

_READERS = 8  # threads
_LONGEST = 1e10  # seconds; of all cores together
_MOST = 2**62  # bytes or items
_FIRST_YEAR = 2000


class Attempts(NamedTuple):
    """What was found.

    Attributes:
        attempts: by shard, those of one shard by their beginning.
        failures: the exceptions that ended some of them.
        unmeasured: how many of them do not say what they took.
        unreadable: how many records could not be read.
    """

    attempts: tuple[Attempt, ...]
    failures: list[Failure]
    unmeasured: int
    unreadable: int


@dataclass(slots=True)
class _Draft:
    """An attempt, of which one record after the other tells."""

    rank: int
    name: str
    worker: str = ""
    host: str = ""
    outcome: Outcome | None = None
    start: float | None = None
    end: float | None = None
    items: int = 0
    reached: int = 0
    usage: Usage | None = None
    peak: int | None = None
    process_start: float | None = None

    def ended(self, outcome: Outcome, end: datetime, usage: Usage | None) -> None:
        """What the record of its end says, whatever that is."""
        self.outcome, self.end = outcome, end.timestamp()
        if usage is not None and _is_credible(usage):
            self.usage, self.items, self.peak = usage, usage.items, usage.peak_memory
            self.start = usage.began.timestamp()
            self.end = self.start + usage.seconds

    def attempt(self, worker: str, outcome: Outcome) -> Attempt:
        """The same, finished."""
        return Attempt(
            self.rank, self.name, layout.submission_of(self.name), self.worker or worker,
            self.host, self.outcome or outcome, self.start, self.end, self.items, self.reached,
            self.usage, self.peak, self.process_start,
        )  # fmt: skip


def _is_credible(usage: Usage) -> bool:
    """Whether figures can be those of a process: others would be all that a page shows."""
    seconds = usage.seconds, usage.environment, usage.forward, usage.cpu
    counts = usage.items, usage.peak_memory or 0, usage.peak_gpu_memory or 0
    return (
        max(seconds) <= _LONGEST
        and max(*counts, *(n for _, n in usage.item_seconds)) <= _MOST
        and usage.began.year >= _FIRST_YEAR
        and usage.began.timestamp() + usage.seconds <= time.time() + _LONGEST
    )


def worker_name(submission: int, task: int | None, worker: str = "") -> str:
    """What a worker is called: its task, or for one that joined a part of its own name.

    Example:
        >>> worker_name(1, 3), worker_name(1, None, "0001-00a0b0c0d0e0")
        ('0001/3', '0001/joined-c0d0e0')
    """
    return f"{submission:04d}/{f'joined-{worker[-6:]}' if task is None else task}"


def read_attempts(
    seen: Observation, receipts: Mapping[int, Receipt], signs: Sequence[WorkerSign]
) -> Attempts:
    """What the attempts at all shards came to.

    Args:
        seen: the run, as it was observed.
        receipts: rank -> its receipt.
        signs: the last ones of workers that claim shards.
    """
    at_it = {
        (worker_name(sign.submission, sign.task, sign.worker), sign.shard)
        for sign in signs
        if not sign.ended and sign.shard is not None
    }
    return _Reading(seen, at_it).all(receipts)


@dataclass
class _Reading:
    seen: Observation
    at_it: Collection[tuple[str, int | None]]  # living workers that claim, and their shards
    drafts: dict[str, _Draft] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    unreadable: int = 0

    @property
    def _directory(self) -> RunDirectory:
        return self.seen.directory

    def all(self, receipts: Mapping[int, Receipt]) -> Attempts:
        dynamic = any(k.submission.schedule == "dynamic" for k in self.seen.submissions)
        looked = self._directory.receipts(self.seen.run.world_size, withdrawals=dynamic)
        if dynamic:
            self._claims(looked)
        for rank, receipt in receipts.items():
            self._receipt(rank, receipt)
        self._withdrawn(looked.names)
        self._records()
        places = {
            known.submission.number: _tasks(known.submission)
            for known in self.seen.submissions
            if known.submission.schedule == "static"
        }
        running = set(self.seen.status.shards.ranks({"running"}))
        newest = {draft.rank: draft.name for draft in self._by_start()}
        found = []
        for draft in self._by_start():
            number = layout.submission_of(draft.name)
            task = places.get(number, {}).get(draft.rank)
            alive = draft.rank in running and (
                (draft.worker, draft.rank) in self.at_it
                if places.get(number) is None
                else newest[draft.rank] == draft.name
            )
            found.append(
                draft.attempt(worker_name(number, task, draft.name), "running" if alive else "lost")
            )
        found.sort(key=lambda attempt: attempt.rank)
        unmeasured = sum(attempt.usage is None for attempt in found)
        return Attempts(tuple(found), self.failures, unmeasured, self.unreadable)

    def _by_start(self) -> list[_Draft]:
        return sorted(self.drafts.values(), key=lambda draft: (draft.start or 0.0, draft.name))

    def _draft(self, rank: int, name: str) -> _Draft:
        return self.drafts.setdefault(name, _Draft(rank, name))

    def _read(self, model: type[Model], paths: Iterable[str]) -> list[Model]:
        def read(path: str) -> Model | None:
            try:
                return self._directory.read(model, path)
            except EspnetError:  # counted
                return None

        found = gather(read, [*paths], _READERS)
        self.unreadable += sum(record is None for record in found)
        return [record for record in found if record is not None]

    def _claims(self, looked: Receipts) -> None:
        names = [*claim_names(self._directory.store, looked.generation)]
        whole = [(n.rank, n.generation, n.number) for n in names if not n.is_part]
        parts = [(n.rank, n.generation, n.number) for n in names if n.is_part]
        for claim in self._read(Claim, (layout.claim(*name) for name in whole)):
            draft = self._draft(claim.rank, claim.attempt)
            number = layout.submission_of(claim.attempt)
            draft.worker = worker_name(number, claim.task, claim.worker)
            draft.host, draft.start = claim.process.host, claim.time.timestamp()
        for part in self._read(PartialReceipt, (layout.partial_receipt(*name) for name in parts)):
            draft = self._draft(part.rank, part.attempt)
            draft.items = max(0, part.end - part.first - part.salvaged)
            draft.host, draft.reached = part.host, part.end - part.first
            draft.ended("done", part.created, part.usage)

    def _withdrawn(self, names: Iterable[str]) -> None:
        """Receipts that count no more: who made them did that work all the same."""
        counting = self.seen.receipts
        paths = [
            layout.receipt(name.rank, name.generation)
            for name in map(layout.parse_receipt, names)
            if name is not None and counting.get(name.rank) != name.generation
        ]
        for receipt in self._read(Receipt, paths):
            self._receipt(receipt.rank, receipt)

    def _receipt(self, rank: int, receipt: Receipt) -> None:
        draft = self._draft(rank, receipt.attempt)
        draft.host = receipt.host
        if draft.outcome is None:  # else the receipt was made of partial ones
            draft.items, draft.reached = receipt.records - receipt.salvaged, receipt.records
            draft.ended("done", receipt.created, receipt.usage)

    def _records(self) -> None:
        """What attempts recorded; of those whose receipt says when they began, not that again."""
        events: dict[tuple[int, str], set[str]] = {}
        names = self._directory.store.names(layout.ATTEMPTS)
        for file in map(layout.parse_attempt_record, sorted(names)):
            if file is not None:
                events.setdefault((file.rank, file.attempt), set()).add(file.event)
        ends = [
            layout.attempt_record(rank, name, event)
            for (rank, name), own in events.items()
            for event in ("failed", "interrupted")
            if event in own
        ]
        for record in self._read(AttemptRecord, ends):
            self._ended(record)
        starts = [
            layout.attempt_record(rank, name, "started")
            for (rank, name), own in events.items()
            if "started" in own and self._draft(rank, name).usage is None
        ]
        for record in self._read(AttemptRecord, starts):
            draft = self._draft(record.rank, record.attempt)
            draft.start, draft.host = record.time.timestamp(), record.host
            draft.worker = _worker_of(record)

    def _ended(self, record: AttemptRecord) -> None:
        draft = self._draft(record.rank, record.attempt)
        draft.host, draft.reached = record.host, record.items_done
        draft.worker = draft.worker or _worker_of(record)
        draft.ended(
            "failed" if record.event == "failed" else "interrupted", record.time, record.usage
        )
        if 0 < record.elapsed <= _LONGEST:
            draft.process_start = record.time.timestamp() - record.elapsed
        needed = record.memory_needed
        draft.peak = None if needed is None else min(needed, _MOST)
        if record.event == "failed" and record.error is not None:
            error, item = record.error, ""
            if record.item is not None:
                item = as_json(record.item)
            self.failures.append(
                Failure(record.rank, error.type, error.message, error.traceback, item, record.host)
            )


def as_json(item: Any) -> str:
    """An item as a page names it."""
    return one_line(json.dumps(masked(item), ensure_ascii=False, default=str), 200)


def _worker_of(record: AttemptRecord) -> str:
    number = layout.submission_of(record.attempt)
    return worker_name(number, record.task, f"{record.host}-{record.pid}")


def _tasks(submission: Submission) -> dict[int, int]:
    """Rank -> the task that computes it, of a static submission; else only claims tell."""
    return {rank: task for rank, task, _ in submission.places()}
