"""How many items a Dask task takes: simulated workers, no Dask."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet3.parallel.batch_sizer import MOST, TASK_BYTES, TASK_SECONDS, BatchSizer


def sizes_of(
    total: int, n_threads: int, seconds: Callable[[int], float], n_bytes: float = 100.0
) -> tuple[list[int], float]:
    """The batches of a run whose item `i` takes `seconds(i)`, and when the last one ended."""
    sizer = BatchSizer(total, n_threads)
    sizes: list[int] = []
    free = [(0.0, thread) for thread in range(n_threads)]
    heapq.heapify(free)
    first, end = 0, 0.0
    while first < total:
        began, thread = heapq.heappop(free)
        size = min(sizer.next_size(), total - first)
        took = sum(map(seconds, range(first, first + size)))
        sizer.observe(size, took, n_bytes * size)
        sizes.append(size)
        first += size
        end = max(end, began + took)
        heapq.heappush(free, (began + took, thread))
    return sizes, end


@settings(deadline=None)
@given(
    total=st.integers(1, 20_000),
    n_threads=st.integers(1, 64),
    each=st.floats(1e-7, 10.0),
    n_bytes=st.floats(1.0, 1e8),
)
def test_all_items_are_handed_out_in_tasks_of_bounded_time_and_size(
    total: int, n_threads: int, each: float, n_bytes: float
) -> None:
    sizes, _ = sizes_of(total, n_threads, lambda _: each, n_bytes)
    assert sum(sizes) == total
    assert sizes[0] == 1
    for size in sizes:
        assert 1 <= size <= MOST
        assert size == 1 or size * each <= TASK_SECONDS * 1.01
        assert size == 1 or size * n_bytes <= TASK_BYTES * 1.01


def test_many_trivial_items_are_few_tasks() -> None:
    sizes, _ = sizes_of(1_000_000, 2, lambda _: 1e-6)
    assert len(sizes) < 120


def test_slow_items_travel_alone() -> None:
    sizes, _ = sizes_of(100, 4, lambda _: 1.0)
    assert set(sizes) == {1}


def test_a_slow_first_item_is_forgotten() -> None:
    sizes, _ = sizes_of(200_000, 2, lambda item: 5.0 if item == 0 else 1e-5)
    assert max(sizes) > 1000


@pytest.mark.parametrize("n_threads", [1, 2, 16])
def test_threads_end_together(n_threads: int) -> None:
    each, total = 0.001, 5000
    _, end = sizes_of(total, n_threads, lambda _: each)
    assert end <= total * each / n_threads + 2 * TASK_SECONDS


def test_items_without_a_known_end_are_sized_by_time_alone() -> None:
    sizer = BatchSizer(None, 2)
    for _ in range(10):
        size = sizer.next_size()
        sizer.observe(size, size * 0.001, size)
    assert sizer.next_size() == pytest.approx(TASK_SECONDS / 0.001, abs=1)


def test_items_that_take_no_time_at_all_are_still_bounded() -> None:
    sizer = BatchSizer(None)
    for _ in range(10):
        size = sizer.next_size()
        sizer.observe(size, 0.0, 0.0)
    assert sizer.next_size() == MOST
