"""How many items failed and were recorded (`on_error: record`), as the receipts tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
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


class FailedItemCounts:
    """Counts the failed items of shards that are done.

    Each receipt is read once, however often a run is looked at: what is published never changes.

    Example:
        >>> failed = FailedItemCounts()
        >>> failed.count(directory, run, {0: 1, 1: 1})  # doctest: +SKIP
        {1: 3}
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}

    def count(
        self, directory: RunDirectory, run: RunSpec, receipts: Mapping[int, int]
    ) -> dict[int, int | None]:
        """Count them, of a run of which `records_errors` is true.

        Args:
            directory: the run directory.
            run: its run.json.
            receipts: rank -> generation of the receipt that counts.

        Returns:
            Rank -> how many items of the shard failed, for those where any did; None where the
            receipt cannot be read, so that `collect` would refuse it.
        """

        def read(receipt: tuple[int, int]) -> int | None:
            try:
                return directory.receipt(run, *receipt).errors
            except EspnetError:  # a look must not fail; `collect` says what is wrong
                return None

        new = [found for found in sorted(receipts.items()) if found not in self._known]
        counts: dict[int, int | None] = {}
        for receipt, errors in zip(new, gather(read, new, _READERS), strict=True):
            if errors is None:  # perhaps it is on its way: looked at again the next time
                counts[receipt[0]] = None
            else:
                self._known[receipt] = errors
        for receipt in receipts.items():
            if errors := self._known.get(receipt):
                counts[receipt[0]] = errors
        return dict(sorted(counts.items()))
