"""How many items one Dask task should take, from how long and how large the others were. Pure."""

from __future__ import annotations

TASK_SECONDS = 0.1  # long against Dask's few milliseconds per task, short against a user's patience
TASK_BYTES = 8e6  # of items, and of results
GROWTH = 64  # from one task to the next, at most
LEAST_SECONDS = 0.02  # that a task near the end is worth
MOST = 20_000  # items


class BatchSizer:
    """Sizes batches so that a task takes about `TASK_SECONDS`, and never far more than that.

    Args:
        total: how many items there are in all, if that is known.
        n_threads: how many tasks run at the same time; may be set later, as workers come.

    Example:
        >>> sizer = BatchSizer(total=1000, n_threads=2)
        >>> sizer.next_size()
        1
        >>> sizer.observe(items=1, seconds=0.001, size=100)
        >>> sizer.next_size()
        64
    """

    def __init__(self, total: int | None = None, n_threads: int = 1) -> None:
        self.n_threads = n_threads
        self._left = total
        self._largest_seen = 1
        self.growing = True  # the next observation may change the size much: hand out few till then
        self._seconds: float | None = None  # per item
        self._bytes = 0.0

    def next_size(self) -> int:
        """How many items the next batch takes; they count as handed out."""
        if self._seconds is None:
            size = 1
        else:
            by_time = TASK_SECONDS / max(self._seconds, 1e-9)
            by_size = TASK_BYTES / max(self._bytes, 1e-9)
            size = max(1, int(min(by_time, by_size, GROWTH * self._largest_seen, MOST)))
            self.growing = size >= GROWTH * self._largest_seen
        if self._left is not None:
            # Two rounds for all threads remain, so that the last tasks end together.
            share = -(-self._left // (2 * self.n_threads))
            worth = int(LEAST_SECONDS / max(self._seconds or LEAST_SECONDS, 1e-9))
            size = max(1, min(size, max(share, worth)))
            self._left -= size
        return size

    def observe(self, items: int, seconds: float, size: float) -> None:
        """Take note of a finished batch.

        Args:
            items: how many it had.
            seconds: how long they took.
            size: of their results, or of themselves if that is more, in bytes.
        """
        # Of a much larger batch than before, less is what any batch costs.
        weight = 1.0 if items >= 4 * self._largest_seen else 0.5
        per_item = seconds / items
        if self._seconds is None:
            self._seconds, self._bytes = per_item, size / items
        else:
            self._seconds += weight * (per_item - self._seconds)
            self._bytes += weight * (size / items - self._bytes)
        self._largest_seen = max(self._largest_seen, items)
