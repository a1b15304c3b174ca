"""Which items a resume passes over (decision 0026)."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from espnet3.errors import EspnetError, UsageError
from espnet3.run_dir.claims import claim_names, read_open_claims
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.item_words import WantedItem
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.receipt_history import read_receipt_history
from espnet3.run_dir.receipts import Receipts
from espnet3.run_dir.salvage import list_results, salvage
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs import layout
from espnet3.specs.items import batched
from espnet3.specs.models import AttemptRecord, Claim, SkippedItem, Submission
from espnet3.status.observation import Observation
from espnet3.status.run_status import LIVE, Kind, ShardStatus
from espnet3.submit.submission import PlannedSubmission
from espnet3.text import one_line

# Ends of an attempt that may be an item's fault, when it left no word.
_DEATHS: frozenset[Kind] = frozenset({"memory", "killed", "crashed", "silent"})
_UNKNOWN = (
    "which item it died at is not known for sure; it is computed again, and skipped nothing: "
    "should it die again, `--skip-failing` will know, or name the item with `--skip`"
)


class FoundSkips(NamedTuple):
    """What is passed over.

    Attributes:
        items: the items.
        words: for each of them, which it is and why.
        not_found: rank -> why nothing of the shard is skipped.
    """

    items: list[SkippedItem]
    words: list[str]
    not_found: dict[int, str]


def find_skips(
    seen: Observation,
    ranks: Collection[int],
    named: Iterable[Any],
    *,
    failing: bool,
    force: bool = False,
) -> FoundSkips:
    """The items that a resume is asked to pass over.

    Args:
        seen: what is known of the run.
        ranks: the shards that are wanted.
        named: items by their values, or as `WantedItem`.
        failing: also the item that each missing shard's last attempt ended at.
        force: also of shards that seem to be alive.

    Raises:
        UsageError: a named item is not in the run, or in a shard that is done, alive or not wanted.
    """
    found = FoundSkips([], [], {})
    wanted = [item if isinstance(item, WantedItem) else _of_value(item) for item in named]
    _find_named(seen, ranks, wanted, force, found)
    if failing:
        states = seen.status.shards.states
        missing = [
            r for r in sorted(ranks) if states[r] != "done" and (force or states[r] not in LIVE)
        ]
        known = _Known.of(seen.directory, seen.run.world_size, missing)
        for rank in missing:
            _find_failing(seen, known, seen.status.shards[rank], found)
    return found


def _of_value(value: Any) -> WantedItem:
    return WantedItem(one_line(repr(value), 80), None, value)


def with_skips(
    planned: Iterable[PlannedSubmission], skips: Sequence[SkippedItem]
) -> list[PlannedSubmission]:
    """Submissions with those of the items that are in their shards."""
    if not skips:
        return [*planned]
    made = []
    for each in planned:
        ranks = set(each.ranks.plain())
        made.append(each._replace(skip=[item for item in skips if item.rank in ranks]))
    return made


def skipped_before(
    submissions: Sequence[KnownSubmission], ranks: Iterable[int]
) -> list[SkippedItem]:
    """What is passed over of some shards so far, and by later submissions too.

    That is what the newest submission of each shard passes over: it took over what was before.

    Args:
        submissions: those of the run, in order.
        ranks: the shards.
    """
    if not any(submission.skip for submission, _ in submissions):
        return []
    left, found = set(ranks), list[SkippedItem]()
    for submission, _ in reversed(submissions):
        own = left.intersection(submission.ranks.plain())
        found += [item for item in submission.skip if item.rank in own]
        left -= own
    return sorted(found, key=lambda item: (item.rank, item.position))


def _find_named(
    seen: Observation,
    ranks: Collection[int],
    wanted: Sequence[WantedItem],
    force: bool,
    found: FoundSkips,
) -> None:
    left, before = [*wanted], 0
    for rank in range(seen.run.world_size if wanted else 0):
        n_items = seen.run.n_items_of(rank)
        if any(w.position is None or w.position < before + n_items for w in left):
            items = batched(seen.directory.shard(seen.run, rank).items, seen.run.batch_size)
            for each in [*left]:
                position = each.position_in(items, before)
                if position is not None:
                    left.remove(each)
                    _require_missing(seen, rank, ranks, each, force)
                    _add(found, rank, position, items[position], "named by --skip")
        before += n_items
    if left:
        raise left[0].missing(f"the run {seen.directory.root}", before)


def _require_missing(
    seen: Observation, rank: int, ranks: Collection[int], wanted: WantedItem, force: bool
) -> None:
    state = seen.status.shards.states[rank]
    if state == "done":
        raise UsageError(f"{wanted.word}: its shard {rank} is done, so it cannot be skipped")
    if state in LIVE and not force:
        raise UsageError(f"{wanted.word}: its shard {rank} is {state}; cancel the run first")
    if rank not in ranks:
        raise UsageError(f"{wanted.word}: is of shard {rank}, which is none of the named ones")


def _add(found: FoundSkips, rank: int, position: int, item: Any, cause: str) -> None:
    if any((s.rank, s.position) == (rank, position) for s in found.items):
        return
    found.items.append(SkippedItem(rank=rank, position=position, cause=cause))
    found.words.append(f"item {one_line(repr(item), 80)} of shard {rank}: {cause}")


class _Known(NamedTuple):
    """What the directory tells of some shards, each folder listed once."""

    receipts: Receipts
    results: Mapping[int, Sequence[layout.ResultFile]]
    records: Mapping[int, Sequence[AttemptRecord]]
    claims: Mapping[int, Sequence[Claim]]
    ended: Collection[tuple[int, int]]  # rank and number of claims with a partial receipt

    @classmethod
    def of(cls, directory: RunDirectory, world_size: int, ranks: Iterable[int]) -> _Known:
        chosen, receipts = set(ranks), directory.receipts(world_size)
        claims = read_open_claims(directory, receipts, chosen)
        names = claim_names(directory.store, receipts.generation) if claims else ()
        ended = {(name.rank, name.number) for name in names if name.is_part}
        results = list_results(directory.store)
        return cls(receipts, results, _records(directory, chosen), claims, ended)


def _find_failing(seen: Observation, known: _Known, shard: ShardStatus, found: FoundSkips) -> None:
    """The item that a missing shard's last attempt ended at."""
    directory, run, rank = seen.directory, seen.run, shard.rank
    records = known.records.get(rank, [])
    ends = [record for record in records if record.event != "started"]
    last = ends[-1] if ends else None
    begun = _begun(seen, known, rank)
    if last is None and begun is None:
        return  # no item was begun
    items = batched(directory.shard(run, rank).items, run.batch_size)
    if last is not None and (begun is None or last.time > begun.time):
        if last.event == "interrupted":
            return
        if last.error is not None:
            position = _position_of(last, items)
            if position is not None:
                cause = f"{last.error.type}: {one_line(last.error.message, 200)}"
                _add(found, rank, position, items[position], cause)
            return
    if begun is None or shard.kind not in _DEATHS:
        return
    position = _died_at(seen, known, rank, begun, items)
    if position is None:
        found.not_found[rank] = _UNKNOWN
    else:
        cause = f"its worker died: {one_line(shard.cause, 200)}"
        _add(found, rank, position, items[position], cause)


def _records(directory: RunDirectory, ranks: Collection[int]) -> dict[int, list[AttemptRecord]]:
    """Rank -> the events of the shard's attempts, oldest first."""
    store, found = directory.store, dict[int, list[AttemptRecord]]()
    for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS)):
        if file is not None and file.rank in ranks:
            with contextlib.suppress(EspnetError):  # the others may tell
                record = read_persisted(store, AttemptRecord, layout.attempt_record(*file))
                found.setdefault(file.rank, []).append(record)
    for records in found.values():
        records.sort(key=lambda record: (record.time, record.event != "started"))
    return found


def _position_of(record: AttemptRecord, items: Sequence[Any]) -> int | None:
    """The position of the item that a record of a failure names."""
    if record.item is None:
        return None
    at = record.items_done
    if at < len(items) and items[at] == record.item:
        return at
    return _of_value(record.item).position_in(items)


class _Begun(NamedTuple):
    """An attempt that began and left no word of its end; `end` is where others' items begin."""

    time: datetime
    submission: Submission
    attempt: str
    first: int
    end: int | None


def _begun(seen: Observation, known: _Known, rank: int) -> _Begun | None:
    """The newest of these attempts; a claim stands in place of a record that one began."""
    submissions, records = seen.by_number(), known.records.get(rank, [])
    claims = known.claims.get(rank, [])
    over = {record.attempt for record in records if record.event != "started"}
    began: list[tuple[datetime, str, int, int | None]]
    began = [(r.time, r.attempt, 0, None) for r in records if r.event == "started"]
    began += [
        (
            c.time,
            c.attempt,
            c.first,
            min((o.first for o in claims if o.first > c.first), default=None),
        )
        for c in claims
        if (rank, c.number) not in known.ended
    ]
    found = [
        _Begun(time, submission, name, first, end)
        for time, name, first, end in began
        if name not in over
        and (submission := submissions.get(layout.submission_of(name))) is not None
    ]
    return max(found, key=lambda attempt: attempt.time, default=None)


def _died_at(
    seen: Observation,
    known: _Known,
    rank: int,
    last: _Begun,
    items: Sequence[Any],
) -> int | None:
    """The position that a dead attempt was at; None where that is not known for sure."""
    submission = last.submission
    store, files = seen.directory.store, known.results.get(rank, [])
    if not store.can_append:
        return None
    own = [file for file in files if file.attempt == last.attempt]
    try:
        if own:
            begun = min(file.first for file in own)
            position = begun + sum(_whole_lines(seen.directory, file) for file in own)
        else:
            generation = known.receipts.generation(rank)
            history = read_receipt_history(
                store, seen.run, rank, generation, submission.errors_from_submission
            )
            begun = position = salvage(store, files, items, history, last.first).reached
    except (EspnetError, OSError):
        return None
    exact = position - begun <= submission.one_by_one and submission.one_by_one > 0
    end = len(items) if last.end is None else min(last.end, len(items))
    return position if exact and position < end else None


def _whole_lines(directory: RunDirectory, file: layout.ResultFile) -> int:
    with directory.store.open(layout.result(*file)) as stream:
        return sum(line.endswith(b"\n") for line in stream)
