"""Withdrawing receipts, so that their shards are computed again (decision 0006).

What is damaged, or failed, is found by reading; nothing that was published is changed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

from espnet3.errors import DamagedResult, FileMissing
from espnet3.run_dir.claims import claim_names, read_partial_receipts
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.skipped import Skips, read_skipped
from espnet3.run_dir.verification import find_damage, find_damage_in_written, patiently
from espnet3.specs import layout
from espnet3.specs.models import PartialReceipt, Receipt, RunSpec, Withdrawal, now
from espnet3.storage.retry import RetryPolicy
from espnet3.text import failed_and_skipped, one_line

WhichErrors = Literal["failed", "skipped"]  # the latter: both
_READERS = 8  # threads; most of the time is spent waiting for the storage
_CHUNK = 1024  # receipts between two looks at whether anybody still waits


class WithdrawalCause(NamedTuple):
    """Why a receipt is withdrawn; `files` do not match it."""

    reason: Literal["damaged", "failed-items"]
    cause: str
    files: list[str]


def find_damaged(
    directory: RunDirectory,
    run: RunSpec,
    receipts: Mapping[int, int],
    patience: float,
    stop: threading.Event,
) -> dict[int, WithdrawalCause]:
    """Verify receipts and every byte that they vouch for.

    Args:
        directory: the run directory.
        run: its run.json.
        receipts: rank -> generation.
        patience: seconds before what does not match is believed to be damaged; see `patiently`.
        stop: ends it soon, with what was found by then.

    Returns:
        What was found, by rank.
    """

    def look(rank: int) -> WithdrawalCause | None:
        return _damage(directory, run, rank, receipts[rank])

    found: dict[int, WithdrawalCause] = {}
    ranks = sorted(receipts)

    def look_again() -> None:
        nonlocal found, ranks
        found = _look_at_all(look, ranks, stop)
        ranks = sorted(found)
        if found:
            raise _MayBeLate

    with contextlib.suppress(_MayBeLate):
        policy = RetryPolicy(sleep=stop.wait, clock=time.monotonic)
        policy.patiently(look_again, _MayBeLate, patience)
    return found


def find_failed(
    directory: RunDirectory,
    run: RunSpec,
    receipts: Mapping[int, int],
    patience: float,
    stop: threading.Event,
    skips: Skips,
    *,
    again: WhichErrors,
) -> dict[int, WithdrawalCause]:
    """Find the shards that recorded failed items; see `find_damaged`.

    Args:
        directory: the run directory.
        run: its run.json.
        receipts: rank -> generation.
        patience: seconds, as there.
        stop: ends it soon, with what was found by then.
        skips: the items that were passed over.
        again: whether these are a reason, too.

    Raises:
        DamagedResult: a receipt is damaged.
    """

    def look(rank: int) -> WithdrawalCause | None:
        receipt = patiently(lambda: directory.receipt(run, rank, receipts[rank]), patience, stop)
        return _failed(directory, [receipt], skips, again)

    return _look_at_all(look, sorted(receipts), stop)


def _failed(
    directory: RunDirectory,
    receipts: Sequence[Receipt | PartialReceipt],
    skips: Skips,
    again: WhichErrors,
) -> WithdrawalCause | None:
    """Why the receipts of a shard are withdrawn, if any item of it is to be computed again."""
    failed = sum(receipt.errors for receipt in receipts)
    skipped = read_skipped(directory.store, receipts, skips)
    words = failed_and_skipped(failed - skipped, skipped if again == "skipped" else 0)
    return WithdrawalCause("failed-items", ", ".join(words), []) if words else None


def find_failed_parts(
    directory: RunDirectory,
    run: RunSpec,
    ranks: Sequence[int],
    stop: threading.Event,
    skips: Skips,
    *,
    again: WhichErrors,
) -> tuple[dict[int, int], dict[int, WithdrawalCause]]:
    """Find failed items in what workers vouched for that share a shard which is not done.

    Args:
        directory: the run directory.
        run: its run.json.
        ranks: shards without a receipt.
        stop: ends it soon, with what was found by then.
        skips: as for `find_failed`.
        again: as there.

    Returns:
        The generations of the receipts that such shards would have got, and what was found.
    """
    receipts = directory.receipts(run.world_size)
    wanted = frozenset(ranks)
    shared = {
        name.rank: name.generation
        for name in claim_names(directory.store, receipts.generation)
        if name.is_part and name.rank in wanted and name.rank not in receipts.done
    }

    def look(rank: int) -> WithdrawalCause | None:
        found = read_partial_receipts(directory, run, rank, shared[rank])
        return _failed(directory, found, skips, again)

    return shared, _look_at_all(look, sorted(shared), stop)


def withdraw(
    directory: RunDirectory,
    receipts: Mapping[int, int],
    findings: Mapping[int, WithdrawalCause],
    errors_from: int,
) -> None:
    """Withdraw receipts. Where somebody else has done it already, theirs counts.

    Args:
        directory: the run directory.
        receipts: rank -> generation of the receipt that there is, or would be.
        findings: which ones, and why.
        errors_from: recorded errors count from attempts of this submission on; 0 for all of them.
    """
    if findings:
        directory.store.prepare([layout.WITHDRAWALS])
    for rank, finding in sorted(findings.items()):
        record = Withdrawal(
            rank=rank,
            generation=receipts[rank],
            created=now(),
            by=this_process(),
            from_submission=errors_from,
            **finding._asdict(),
        )
        directory.publish_first(record)


class _MayBeLate(Exception):
    """What does not match may still be on its way through a network file system."""


def _damage(
    directory: RunDirectory, run: RunSpec, rank: int, generation: int
) -> WithdrawalCause | None:
    try:
        receipt = directory.receipt(run, rank, generation)
    except DamagedResult as error:
        return WithdrawalCause("damaged", one_line(f"the receipt: {error.problem}"), [])
    except FileMissing:
        return None  # so the shard is not done, and there is nothing to withdraw
    files = find_damage(directory.store, receipt)
    written = find_damage_in_written(directory.store, receipt)
    if not files and not written:
        return None
    words = [f"{file} {problem}" for file, problem in (files | written).items()]
    more = f", and {len(words) - 3} more" if len(words) > 3 else ""
    return WithdrawalCause("damaged", ", ".join(words[:3]) + more, [*files])


def _look_at_all(
    look: Callable[[int], WithdrawalCause | None], ranks: Sequence[int], stop: threading.Event
) -> dict[int, WithdrawalCause]:
    """What a look at each of some shards found."""
    found = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for first in range(0, len(ranks), _CHUNK):
            chunk = ranks[first : first + _CHUNK]
            for rank, finding in zip(chunk, pool.map(look, chunk), strict=True):
                if finding is not None:
                    found[rank] = finding
            if stop.is_set():
                break
    return found
