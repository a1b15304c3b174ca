"""How many items failed and were recorded, or were skipped, as the receipts tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.skipped import Skips
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.specs.models import RunSpec
from espnet3.storage.concurrency import gather

_READERS = 8  # threads; most of the time is spent waiting for the storage


def records_errors(run: RunSpec, submissions: Iterable[KnownSubmission]) -> bool:
    """Whether failed items may stand in receipts: the plan says so, or a submission does."""
    return run.on_error == "record" or any(
        known.submission.on_error(run.on_error) == "record" or known.submission.skip
        for known in submissions
    )


class FailedItems(NamedTuple):
    """What is wrong with items of some shards.

    Attributes:
        failed: rank -> how many failed; None where the receipt cannot be read, so that `collect`
            would refuse it.
        skipped: rank -> how many were passed over.
    """

    failed: dict[int, int | None]
    skipped: dict[int, int]

    def add(self, rank: int, errors: int, skipped: int) -> None:
        """Add what is known of a shard: its recorded errors, and how many of them are skipped."""
        if errors > skipped:
            self.failed[rank] = errors - skipped
        if skipped:
            self.skipped[rank] = skipped


class FailedItemCounts:
    """Counts the failed and the skipped items of shards that are done.

    Each receipt is read once, however often a run is looked at: what is published never changes.

    Example:
        >>> failed = FailedItemCounts()
        >>> failed.count(directory, run, {0: 1, 1: 1}, Skips({}))  # doctest: +SKIP
        FailedItems(failed={1: 3}, skipped={})
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], tuple[int, str]] = {}  # errors, and whose they are

    def count(
        self, directory: RunDirectory, run: RunSpec, receipts: Mapping[int, int], skips: Skips
    ) -> FailedItems:
        """Count them, of a run of which `records_errors` is true.

        Args:
            directory: the run directory.
            run: its run.json.
            receipts: rank -> generation of the receipt that counts.
            skips: what the submissions pass over.
        """

        def read(receipt: tuple[int, int]) -> tuple[int, str] | None:
            try:
                found = directory.receipt(run, *receipt)
                return found.errors, found.attempt
            except EspnetError:  # a look must not fail; `collect` says what is wrong
                return None

        new = [found for found in sorted(receipts.items()) if found not in self._known]
        counts = FailedItems({}, {})
        for receipt, found in zip(new, gather(read, new, _READERS), strict=True):
            if found is None:  # perhaps it is on its way: looked at again the next time
                counts.failed[receipt[0]] = None
            else:
                self._known[receipt] = found
        for receipt in receipts.items():
            errors, attempt = self._known.get(receipt, (0, ""))
            if errors:
                counts.add(receipt[0], errors, skips.among(errors, attempt, receipt[0]))
        return counts
