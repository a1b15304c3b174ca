"""Computing one shard: salvage, run, receipt."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from espnet3._structs import Struct
from espnet3.errors import FileTaken, StoreError
from espnet3.run_dir.claims import read_partial_receipts
from espnet3.run_dir.receipt_history import read_receipt_history
from espnet3.run_dir.regions import covered
from espnet3.run_dir.salvage import NOTHING, Kept, Salvage, later_lines, list_results, salvage
from espnet3.specs import layout
from espnet3.specs.items import batched, may_change
from espnet3.specs.models import (
    Claim,
    PartialReceipt,
    Receipt,
    ResultPart,
    Usage,
    Written,
    now,
)
from espnet3.text import counted
from espnet3.worker.attempt import Attempt, as_ours, record_failure
from espnet3.worker.computing import Tally, Work, compute_items, on_copies
from espnet3.worker.environment import tell_world
from espnet3.worker.result_writer import ResultWriter
from espnet3.worker.signals import Interrupted
from espnet3.worker.skipping import with_skipped

log = logging.getLogger("espnet3.worker")
T = TypeVar("T")


class Stretch:
    """The positions of a shard that an attempt computes; somebody else may take over the last ones.

    Attributes:
        claim: the attempt's claim.
        first: position of its first item.
        end: position after its last item; another thread may bring it nearer.
        position: of the item that is being computed, or comes next.
        begun: monotonic seconds when the first item began that no earlier attempt had computed.
        computed: how many items this attempt has computed.
        look: looks whether somebody has taken over the last items, and moves `end`.
        looks_from: position from which on it is called before each item.
    """

    def __init__(self, claim: Claim, end: int) -> None:
        self.claim, self.first, self.end, self.position = claim, claim.first, end, claim.first
        self.look: Callable[[], None] | None = None
        self.looks_from = end
        self.begun: float | None = None
        self.computed = 0

    def over(
        self, pairs: Iterable[tuple[Any, T | None]], position: int
    ) -> Iterator[tuple[Any, T | None]]:
        """The items from a position on, up to the end as it is by then, and what is kept of each.

        What is kept of an item is None where it is to be computed.
        """
        self.position, self.begun = position, time.monotonic()
        for item, kept in pairs:
            if self.position >= self.looks_from and self.look is not None:
                self.look()
            if self.position >= self.end:
                return
            yield item, kept
            self.position += 1
            self.computed += kept is None  # what was copied says nothing of the pace


def compute_shard(
    work: Work,
    attempt: Attempt,
    earlier: Iterable[layout.ResultFile],
    stretch: Stretch | None = None,
) -> bool:
    """Compute one shard to its receipt, going on from what earlier attempts left.

    Args:
        work: what all shards of this process share.
        attempt: this attempt.
        earlier: the result files of earlier attempts at this shard.
        stretch: what of it was claimed, and may be a part; all of it where unset.

    Returns:
        Whether the shard, or the part of it, has a receipt now. If not, the attempt has a record
        that says why.

    Raises:
        Interrupted: a signal came; what was done is kept and the attempt recorded as interrupted.
        UsageError: the directory belongs to another run by now; nothing is recorded.
    """
    progress = _Progress()
    tell_world(work.run, attempt.rank)
    try:
        if stretch is None:  # a claim stands in place of it
            attempt.record("started", durable=False)
        work, items = _with_items(work, attempt.rank)
        compute = _compute_results if work.run.writers is None else _compute_written
        vouched = compute(work, attempt, earlier, items, stretch, progress)
        vouched = vouched._replace(usage=attempt.spent.usage())
        if stretch is None or (stretch.first, stretch.end) == (0, len(items)):
            _publish_receipt(work, attempt, vouched)
        else:
            _publish_part(work, attempt, stretch, vouched)
    except Interrupted as signal:
        done = progress.items_done
        words = f"interrupted by {signal} after {counted(done, 'item')}"
        log.warning("shard %d: %s", attempt.rank, words)
        attempt.record("interrupted", cause=f"signal {signal}", items_done=done)
        raise
    except Exception as raised:  # noqa: BLE001 (a shortage of memory or threads, say)
        record_failure(attempt, as_ours(raised), progress.items_done)
        return False
    return True


class _Progress:
    """What of a shard is done."""

    salvaged = 0
    writer: ResultWriter | None = None

    @property
    def items_done(self) -> int:
        return self.salvaged + (0 if self.writer is None else self.writer.added)


def _compute_results(
    work: Work,
    attempt: Attempt,
    earlier: Iterable[layout.ResultFile],
    items: Sequence[Any],
    stretch: Stretch | None,
    progress: _Progress,
) -> _Vouched:
    """Compute what earlier attempts have not, and make the results durable."""
    salvaged = _salvage(work, attempt, earlier, items, stretch)
    progress.salvaged = salvaged.records
    kept = later_lines(work.directory.store, salvaged, items)
    todo = items[salvaged.reached :] if salvaged.reached else items
    return _compute(work, attempt, salvaged, todo, kept, stretch, progress)


def _compute_written(
    work: Work,
    attempt: Attempt,
    earlier: Iterable[layout.ResultFile],
    items: Sequence[Any],
    stretch: Stretch | None,
    progress: _Progress,
) -> _Vouched:
    """Compute a shard whose runner writes its results, and make what it wrote durable."""
    from espnet3.worker.written import writing  # which others need not load

    with writing(work, attempt, earlier, items) as files:
        vouched = _compute(files.work, attempt, NOTHING, items, files.kept, stretch, progress)
        return vouched._replace(written=files.finish())


def _compute(
    work: Work,
    attempt: Attempt,
    salvaged: Salvage,
    todo: Sequence[Any],
    kept: Iterator[Kept | None],
    stretch: Stretch | None,
    progress: _Progress,
) -> _Vouched:
    """Compute items of which no line is kept, behind what is salvaged in one piece."""
    directory, run = work.directory, work.run
    with ResultWriter(
        directory.store,
        attempt.rank,
        attempt.name,
        salvaged.reached,
        run.checkpoint_every,
        before_file=lambda: directory.require_run(run.run_id),
        one_by_one=work.limits.one_by_one,
    ) as writer:
        progress.writer = writer
        tally = Tally(attempt.rank, work.limits.max_errors, salvaged.errors)
        left: Iterable[Any] = zip(todo, kept, strict=False)
        left = with_skipped(left, work.limits.skip.get(attempt.rank), salvaged.reached)
        left = left if stretch is None else stretch.over(left, salvaged.reached)
        compute_items(work, writer, left, tally, attempt.spent)
        parts = writer.finish()
    old = salvaged.records + tally.copied
    return _Vouched([*salvaged.parts, *parts], tally.errors, old)


def _with_items(work: Work, rank: int) -> tuple[Work, Sequence[Any]]:
    """The items of a shard; and the work, by which they stay as they are."""
    inputs = work.directory.shard(work.run, rank).items
    if work.run.batch_size is not None or may_change(inputs):
        work = work._replace(forward=on_copies(work.forward))
    return work, batched(inputs, work.run.batch_size)


def _salvage(
    work: Work,
    attempt: Attempt,
    earlier: Iterable[layout.ResultFile],
    items: Sequence[Any],
    stretch: Stretch | None,
) -> Salvage:
    """What earlier attempts have left of what this one is to compute."""
    first, end = (0, len(items)) if stretch is None else (stretch.first, stretch.end)
    if not earlier:
        return NOTHING._replace(reached=first)
    store, limits = work.directory.store, work.limits
    history = read_receipt_history(
        store, work.run, attempt.rank, attempt.generation, limits.errors_from_submission
    )
    salvaged = salvage(store, earlier, items, history, first, end)
    if salvaged.records:
        log.info("shard %d: %s done already", attempt.rank, counted(salvaged.records, "item"))
    return salvaged


class _Vouched(Struct):
    """What an attempt vouches for, and what it took; see `Receipt`."""

    parts: list[ResultPart]
    errors: int
    salvaged: int
    usage: Usage | None = None
    written: Written | None = None


def _publish_part(work: Work, attempt: Attempt, stretch: Stretch, vouched: _Vouched) -> None:
    """Vouch for a part of a shard; and for all of it, where the others have done so for theirs."""
    directory, claim = work.directory, stretch.claim
    part = PartialReceipt(
        rank=claim.rank,
        generation=claim.generation,
        number=claim.number,
        attempt=attempt.name,
        fingerprint=work.run.fingerprint,
        errors=vouched.errors,
        salvaged=vouched.salvaged,
        parts=vouched.parts,
        host=os.uname().nodename,
        created=now(),
        usage=vouched.usage,
    )
    directory.require_run(work.run.run_id)
    directory.publish_first(part)  # somebody may have had the number whose claim is lost
    log.info("shard %d: items %d to %d are done", claim.rank, part.first, part.end - 1)
    publish_covered(work, attempt)


def publish_covered(work: Work, attempt: Attempt) -> bool:
    """Vouch for a shard whose parts others have vouched for; False where some are missing.

    Its receipt has no usage, since each of the partial ones has its own.

    Raises:
        TooManyErrors: together they have more failed items than a shard may have.
        StoreError: results are gone that somebody has vouched for.
    """
    directory, run, rank = work.directory, work.run, attempt.rank
    found = read_partial_receipts(directory, run, rank, attempt.generation)
    whole = covered(found)
    if whole.end < run.n_items_of(rank):
        return False
    parts, errors = whole.parts(), sum(receipt.errors for receipt in whole.receipts)
    if parts is None:  # somebody saw too late that another one had taken over
        items = batched(directory.shard(run, rank).items, run.batch_size)
        history = read_receipt_history(
            directory.store, run, rank, attempt.generation, work.limits.errors_from_submission
        )
        ends = {part.file: part.first + part.records for each in found for part in each.parts}
        history = history._replace(vouched=ends, errors_from=0)  # as where nothing overlaps
        again = salvage(directory.store, list_results(directory.store)[rank], items, history)
        if again.records < len(items):
            raise StoreError(
                directory.store.locate(layout.RESULTS),
                f"of shard {rank} items 0 to {again.records - 1} are there only, but all were",
            )
        parts, errors = again.parts, again.errors
    tally = Tally(rank, work.limits.max_errors, errors)
    _publish_receipt(
        work, attempt, _Vouched(parts, tally.errors, sum(r.salvaged for r in whole.receipts))
    )
    return True


def _publish_receipt(work: Work, attempt: Attempt, vouched: _Vouched) -> None:
    """Vouch for the results, unless another attempt was first."""
    receipt = Receipt(
        rank=attempt.rank,
        attempt=attempt.name,
        fingerprint=work.run.fingerprint,
        records=sum(part.records for part in vouched.parts),
        errors=vouched.errors,
        salvaged=min(vouched.salvaged, sum(part.records for part in vouched.parts)),
        parts=vouched.parts,
        host=os.uname().nodename,
        created=now(),
        usage=vouched.usage,
        written=vouched.written,
    )
    work.directory.require_run(work.run.run_id)
    try:
        work.directory.publish(receipt, generation=attempt.generation)
    except FileTaken:
        log.warning(
            "shard %d: another attempt was first; this one's results are not used", attempt.rank
        )
    else:
        log.info("shard %d: done, %s", attempt.rank, counted(receipt.records, "item"))
