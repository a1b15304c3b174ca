"""Good lines behind a gap are found in whatever position; what a receipt denies is not believed."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.run_dir import result_lines
from espnet3.run_dir.receipt_history import NO_HISTORY, ReceiptHistory
from espnet3.run_dir.salvage import later_lines, salvage
from espnet3.specs import layout
from espnet3.specs.layout import ResultFile
from espnet3.specs.models import ErrorRecord
from espnet3.storage.base import Store
from tests.unit.run_dir.test_salvage import (
    RANK,
    Written,
    bytes_of,
    line,
    new_store,
    shards,
    write,
)


def all_lines(
    store: Store, names: list[ResultFile], items: list[Any], history: ReceiptHistory
) -> list[Any]:
    """For each position of a shard the line that is taken over, or None."""
    found = salvage(store, names, items, history)
    assert sum(part.records for part in found.parts) == found.records
    later = [
        kept
        for _, kept in zip(items[found.records :], later_lines(store, found, items), strict=False)
    ]
    assert len(later) == len(items) - found.records
    for kept in later:
        assert kept is None or kept[1] == (b'"error"' in kept[0])
    return [*bytes_of(store, found), *(kept and kept[0] for kept in later)]


def good(file: Written, number: int, history: ReceiptHistory) -> dict[int, bytes]:
    """The lines of a file that count, by position: what the rules say, written down anew."""
    name = f"{RANK:06d}.0001-{number:012x}.{file.first}.jsonl"
    if name in history.damaged:
        return {}
    failed = [b'"error"' in one for one in file.valid]
    found = {}
    for n, one in enumerate(file.valid):
        followed = (
            not all(failed[n:])
            or file.first + n
            < max((p for p in range(file.first, history.vouched.get(name, 0))), default=-1) + 1
        )
        if not failed[n] or (history.errors_from <= 1 and followed):
            found[file.first + n] = one
    return found


@st.composite
def beliefs(draw: Any) -> Any:
    """A shard, its files, and what receipts say of them."""
    items, files = draw(shards())
    names = [f"{RANK:06d}.0001-{n:012x}.{file.first}.jsonl" for n, file in enumerate(files)]
    damaged = draw(st.sets(st.sampled_from(names))) if names else set()
    vouched = {
        name: file.first + draw(st.integers(0, len(file.valid)))
        for name, file in zip(names, files, strict=True)
        if draw(st.booleans())
    }
    return items, files, ReceiptHistory(vouched, frozenset(damaged), draw(st.integers(0, 2)))


@given(beliefs())
def test_every_good_line_is_taken_over_and_no_other(drawn: Any) -> None:
    items, files, history = drawn
    store = new_store()
    taken = all_lines(store, write(store, files), items, history)
    candidates = [good(file, n, history) for n, file in enumerate(files)]
    for position, one in enumerate(taken):
        offered = [lines[position] for lines in candidates if position in lines]
        assert one in offered if offered else one is None


def numbered(store: Store, submission: int, first: int, lines: list[bytes]) -> ResultFile:
    name = ResultFile(RANK, layout.new_attempt(submission), first)
    store.create(layout.result(*name), b"".join(lines))
    return name


def results(first: int, last: int) -> list[bytes]:
    return [result_lines.encode_json(item, item) for item in range(first, last)]


def test_a_missing_beginning_costs_only_itself(store: Store) -> None:
    names = [numbered(store, 1, 2, results(2, 5)), numbered(store, 2, 5, results(5, 9))]
    taken = all_lines(store, names, list(range(10)), NO_HISTORY)
    assert taken == [None, None, *results(2, 9), None]


def test_a_result_is_taken_rather_than_another_copys_error(store: Store) -> None:
    names = [
        numbered(store, 1, 1, [line(1, 0, failed=True), *results(2, 3)]),
        numbered(store, 2, 1, results(1, 2)),
    ]
    assert all_lines(store, names, [0, 1, 2], NO_HISTORY) == [None, *results(1, 3)]


def test_errors_of_old_attempts_do_not_count_and_those_of_new_ones_do(store: Store) -> None:
    bad = [line(item, 0, failed=True) for item in range(6)]
    one = results(0, 6)
    names = [
        numbered(store, 1, 0, [one[0], bad[1], one[2], bad[3], one[4], one[5]]),
        numbered(store, 3, 1, [bad[1], one[2]]),
    ]
    taken = all_lines(store, names, list(range(6)), ReceiptHistory(errors_from=3))
    assert taken == [one[0], bad[1], one[2], None, one[4], one[5]]


@pytest.mark.parametrize("vouched", [0, 2, 3])
def test_failed_items_at_the_end_count_where_a_receipt_says_so(store: Store, vouched: int) -> None:
    failed = result_lines.encode_error(2, ErrorRecord(type="E", message="m"))
    name = numbered(store, 1, 0, [*results(0, 2), failed])
    history = ReceiptHistory({layout.result(*name).rpartition("/")[2]: vouched})
    taken = all_lines(store, [name], [0, 1, 2], history)
    assert taken == [*results(0, 2), failed if vouched == 3 else None]


def test_errors_of_nobody_count_where_it_is_not_known_why(store: Store) -> None:
    name = numbered(store, 1, 0, [line(0, 0, failed=True), *results(1, 2)])
    taken = all_lines(store, [name], [0, 1], ReceiptHistory(errors_from=sys.maxsize))
    assert taken == [None, *results(1, 2)]


def test_a_large_shard_is_read_line_by_line(store: Store) -> None:
    n = 6_000
    items = list(range(n))
    lines = [result_lines.encode_json(item, "x" * 100) for item in items]
    names = [numbered(store, 1, 0, lines[: n // 2]), numbered(store, 2, 1, lines[1:])]
    history = ReceiptHistory(damaged={layout.result(*names[0]).rpartition("/")[2]})
    tracemalloc.start()
    found = salvage(store, names, items, history)
    taken = sum(
        kept is not None for _, kept in zip(items, later_lines(store, found, items), strict=False)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken == n - 1
    assert peak < 300_000  # bytes; the lines are 0.8 MB
