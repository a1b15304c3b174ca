"""How far a run has come by items: done, failed, skipped, how fast, and who is silent."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.skipped import Skips
from espnet3.run_dir.submissions import errors_from
from espnet3.specs import layout
from espnet3.specs.items import batched
from espnet3.specs.models import RunSpec
from espnet3.status.durable_items import DurableItems, ShardItems, Start
from espnet3.status.evidence import Evidence
from espnet3.status.failed_items import FailedItemCounts, FailedItems, records_errors
from espnet3.status.run_status import NOTHING_KNOWN, Progress, Shards, Silence

SILENT = 1200.0  # seconds
_WITH_ITEM = 20  # silent shards of which the item is read
_WINDOW = 120.0  # seconds of looks that a rate is taken from, at least
_LEAST = 10.0  # seconds between two looks that tell a rate, at least


class ItemCounts(NamedTuple):
    """How many items failed or were skipped, as in `RunStatus`; and the progress."""

    failed: Mapping[int, int | None] = MappingProxyType({})
    skipped: Mapping[int, int] = MappingProxyType({})
    progress: Progress = NOTHING_KNOWN


class ItemProgress:
    """Looks how far a run has come; nothing is read twice, however often it is looked at.

    Example:
        >>> items = ItemProgress()
        >>> counts = items.look(directory, run, receipts, *seen)  # doctest: +SKIP
        >>> counts.progress.done, counts.failed                    # doctest: +SKIP
        (32, {1: 3})
    """

    def __init__(self) -> None:
        self._failed = FailedItemCounts()
        self._durable = DurableItems()
        self._looks: deque[tuple[float, int]] = deque()  # when, and how many items were done

    def look(
        self,
        directory: RunDirectory,
        run: RunSpec,
        receipts: Mapping[int, int],
        evidence: Evidence,
        shards: Shards,
    ) -> ItemCounts:
        """Look once more.

        Args:
            directory: the run directory.
            run: its run.json.
            receipts: rank -> generation of the receipt that counts.
            evidence: what else is known of it.
            shards: the states that were made of that.
        """
        errors = records_errors(run, evidence.submissions)
        wrong, skips = FailedItems({}, {}), Skips.read(evidence.submissions)
        if errors:
            wrong = self._failed.count(directory, run, receipts, skips)
        if len(receipts) == run.world_size:
            return _counts(wrong, Progress(run.n_items))
        found: dict[int, ShardItems] = {}
        if begun := _begun(evidence):  # or nobody can have left any result
            found = self._durable.look(
                directory, run, begun, _starts(evidence, shards), errors=errors,
                errors_from=errors_from(evidence.submissions), skips=skips,
            )  # fmt: skip
        for rank, items in found.items():
            wrong.add(rank, items.errors, items.skipped)
        done = run.n_items_in(receipts) + sum(items.done for items in found.values())
        silent = _silent(directory, run, found)
        pace = self._pace(run, done, [n for rank, n in found.items() if rank not in silent])
        progress = Progress(
            done,
            {rank: items.done for rank, items in found.items() if items.done},
            pace,
            (run.n_items - done) / pace if pace else None,
            silent,
        )
        return _counts(wrong, progress)

    def _pace(self, run: RunSpec, done: int, at_work: list[ShardItems]) -> float | None:
        """Items a second: between looks, or by the times of files where these are too near."""
        now, least = time.monotonic(), max(_LEAST, 2 * run.checkpoint_every)
        self._looks.append((now, done))
        while len(self._looks) > 2 and now - self._looks[1][0] > max(_WINDOW, 3 * least):
            self._looks.popleft()
        if all(items.written is None for items in at_work):
            return None
        then, before = self._looks[0]
        if now - then >= least:
            return max(0, done - before) / (now - then)
        return sum(items.per_second or 0.0 for items in at_work) or None


def _counts(wrong: FailedItems, progress: Progress) -> ItemCounts:
    failed, skipped = sorted(wrong.failed.items()), sorted(wrong.skipped.items())
    return ItemCounts(dict(failed), dict(skipped), progress)


def _begun(evidence: Evidence) -> dict[int, int]:
    """Rank -> generation of the receipt to come, of shards that somebody has begun."""
    ranks = {file.rank for file in evidence.records} | {*evidence.claims, *evidence.withdrawn}
    open_ranks = sorted(ranks - {*evidence.receipts}) if ranks else []
    return {rank: evidence.withdrawn.get(rank, 1) for rank in open_ranks}


def _starts(evidence: Evidence, shards: Shards) -> dict[int, Start]:
    """Rank -> the newest attempt that has not ended, of shards that are being computed."""
    begun = [
        (record.time, file.rank, Start(file.attempt, layout.attempt_record(*file), 0))
        for file, record in evidence.records.items()
        if file.event == "started"
    ]
    over = {file.attempt for file in evidence.records if file.event != "started"}
    begun += [
        (c.time, rank, Start(c.attempt, layout.claim(rank, c.generation, c.number), c.first))
        for rank, claims in evidence.claims.items()
        for c in claims
        if c.attempt not in over
    ]
    states = shards.states
    found: dict[int, Start] = {}
    for _, rank, start in sorted(begun):
        if rank < len(states) and states[rank] == "running":
            found[rank] = start
    return found


def _silent(
    directory: RunDirectory, run: RunSpec, found: Mapping[int, ShardItems]
) -> Mapping[int, Silence]:
    now, silent = time.time(), dict[int, Silence]()
    for rank, items in sorted(found.items()):
        if items.written is None or items.position is None or now - items.written < SILENT:
            continue
        item = _item(directory, run, rank, items.position) if len(silent) < _WITH_ITEM else None
        silent[rank] = Silence(now - items.written, items.position, item)
    return silent


def _item(directory: RunDirectory, run: RunSpec, rank: int, position: int) -> object:
    with contextlib.suppress(EspnetError, IndexError):
        return batched(directory.shard(run, rank).items, run.batch_size)[position]
    return None
