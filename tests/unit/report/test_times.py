"""Timelines and items over time, by hand-made attempts."""

from __future__ import annotations

import pytest

from espnet3.report.model import Attempt, Facts, Outcome
from espnet3.report.times import MOST_ROWS, items_over_time, timeline
from espnet3.report.workers import Stretch, Worker, workers_of

START = 1000.0


def attempt(
    rank: int, worker: str, start: float | None, end: float | None, outcome: Outcome = "done"
) -> Attempt:
    name = f"0001-{rank:012x}"
    return Attempt(rank, name, 1, worker, "n1", outcome, start, end, items=10, reached=10)


def facts(*attempts: Attempt) -> Facts:
    done = tuple((a.rank, a.end, 10) for a in attempts if a.outcome == "done" and a.end)
    return Facts("/r", "d:D", 100, 10, START, {}, attempts=attempts, done=done)


def worker(row: int, *stretches: Stretch) -> Worker:
    start, end = stretches[0].start, stretches[-1].end
    return Worker(f"0001/{row}", 1, "n1", start, end, (), stretches)


def test_each_worker_has_its_attempts_in_order() -> None:
    found = workers_of(
        facts(
            attempt(3, "0001/10", 1020, 1030),
            attempt(2, "0001/2", 1010, 1015),
            attempt(1, "0001/2", 1000, 1010, "failed"),
        )
    )
    assert [each.name for each in found] == ["0001/2", "0001/10"]
    first = found[0]
    assert [a.rank for a in first.attempts] == [1, 2]
    assert first.stretches == (Stretch(1000, 1010, "failed"), Stretch(1010, 1015, "done"))
    assert (first.busy, first.seconds, first.host) == (15, 15, "n1")


@pytest.mark.parametrize(("outcome", "end"), [("running", 1100), ("lost", 1060)])
def test_what_has_no_end_lasts_as_long_as_anybody_knows(outcome: Outcome, end: float) -> None:
    known = facts(attempt(0, "0001/0", 1000, None, outcome), attempt(1, "0001/1", 1000, 1100))
    if outcome == "lost":
        known = facts(*known.attempts, attempt(2, "0001/0", 1060, 1070))
    assert workers_of(known)[0].stretches[0].end == end


def test_an_attempt_without_any_time_is_left_out() -> None:
    assert workers_of(facts(attempt(0, "0001/0", None, None, "lost"))) == []


def test_bars_lie_where_the_stretches_do() -> None:
    found = timeline([worker(0, Stretch(0, 50, "done"), Stretch(75, 100, "failed"))])
    assert [(b.row, b.shade, round(b.start), round(b.end)) for b in found.bars] == [
        (0, "done", 0, 50), (0, "failed", 75, 100),
    ]  # fmt: skip
    assert found.seconds == 100


def test_what_failed_is_seen_though_it_was_short() -> None:
    found = timeline([worker(0, Stretch(0, 5000, "done"), Stretch(5000, 5000.1, "failed"),
                             Stretch(5000.1, 10_000, "done"))])  # fmt: skip
    assert [bar.shade for bar in found.bars] == ["done", "failed", "done"]


def test_bars_have_a_bound() -> None:
    shades = ("done", "failed")
    stretches = [Stretch(i, i + 1, shades[i % 2]) for i in range(5000)]  # type: ignore[arg-type]
    found = timeline([worker(row, *stretches) for row in range(MOST_ROWS)])
    assert len(found.bars) <= 3000
    assert found.rows[-1] == "0001/99"


def test_many_workers_are_counted() -> None:
    found = timeline([worker(i, Stretch(i, i + 100, "done")) for i in range(MOST_ROWS + 1)], 20)
    assert found.rows == []
    assert found.bars == []
    width = found.seconds / 20
    seconds = sum(count * width for count in found.counts["done"])
    assert seconds == pytest.approx(100 * (MOST_ROWS + 1))
    assert found.peak() == pytest.approx(100, rel=0.05)


def test_items_grow_within_an_attempt_and_are_done_at_its_end() -> None:
    found = items_over_time(
        facts(attempt(0, "0001/0", 1000, 1100), attempt(1, "0001/1", 1050, 1100, "failed")),
        START,
        4,
    )
    assert found.times == [0, 25, 50, 75, 100]
    assert found.computed == pytest.approx([0, 2.5, 5, 12.5, 20])
    assert found.done == [0, 0, 0, 0, 10]


def test_an_attempt_that_took_no_time_counts_at_once() -> None:
    found = items_over_time(facts(attempt(0, "0001/0", START, START)), START, 2)
    assert found.computed == [10, 10, 10]
    assert found.done == [10, 10, 10]
