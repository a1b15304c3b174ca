"""What became of the hours, by hand-made attempts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from espnet3.report.efficiency import efficiency
from espnet3.report.model import Asked, Attempt, Facts, Sign
from espnet3.report.workers import workers_of
from espnet3.specs.models import Usage

T0 = datetime(2026, 1, 1, tzinfo=UTC)
START = T0.timestamp()
HOUR = 3600.0


def facts(*attempts: Attempt, done: tuple[int, ...] = (), **more: Any) -> Facts:
    ends = {a.rank: a.end or 0.0 for a in attempts}
    receipts = tuple((rank, ends[rank], 10) for rank in done)
    values: dict[str, Any] = {"n_items": 20, "n_shards": 2, "states": {"done": 2}, **more}
    return Facts("/r", "decode:D", created=START, attempts=attempts, done=receipts, **values)


def attempt(
    rank: int, worker: str, at: float, hours: float, items: int = 10, **more: Any
) -> Attempt:
    """One that began so many hours after the submission, and took so many."""
    spent = {"forward": 0.9 * hours * HOUR, "cpu": hours * HOUR, **more.pop("usage", {})}
    usage = Usage(began=T0 + timedelta(hours=at), seconds=hours * HOUR, items=items, **spent)
    start = START + at * HOUR
    values: dict[str, Any] = {"outcome": "done", "reached": 10, **more}
    return Attempt(
        rank, f"0001-{rank:012x}", 1, worker, "n1", start=start, end=start + hours * HOUR,
        items=items, usage=usage, **values,
    )  # fmt: skip


def spent(known: Facts) -> Any:
    return efficiency(known, workers_of(known))


def test_hours_of_cores_and_gpus_by_what_they_went_for() -> None:
    asked = Asked(1, START, START + 60, cores=4, gpus=2)
    one = attempt(0, "0001/0", 1.0, 2.0, usage={"environment": HOUR / 2})
    two = attempt(1, "0001/0", 4.0, 1.0)
    found = spent(facts(one, two, done=(0, 1), submissions=(asked,)))
    assert found.core_hours == {
        "useful": pytest.approx(4 * 2.7),
        "recomputed": 0.0,
        "environment": pytest.approx(4 * 0.5),
        "own": pytest.approx(4 * 0.3),
        "unmeasured": 0.0,
        "idle": pytest.approx(4 * 1.0),
    }
    assert found.allocated == pytest.approx(4 * 4.5)  # from the environment's beginning to the end
    assert found.gpu_hours["useful"] == pytest.approx(2 * 2.7)
    assert found.useful == pytest.approx(2.7 / 4.5)
    assert found.cpu == pytest.approx(3 / (4 * 3.5))
    assert found.waits == [pytest.approx(HOUR / 2 - 60)]
    assert found.waited == pytest.approx((HOUR / 2 - 60) / HOUR)


def test_a_worker_is_there_from_the_start_of_its_process_where_that_is_known() -> None:
    failed = attempt(0, "0001/0", 1.0, 2.0, outcome="failed", process_start=START + HOUR / 2)
    found = spent(facts(failed))
    assert found.allocated == pytest.approx(2.5)
    assert found.core_hours["idle"] == pytest.approx(0.5)


def test_items_that_were_computed_twice_are_useful_once() -> None:
    lost = attempt(0, "0001/0", 0.0, 1.0, items=10, outcome="interrupted", reached=5)
    again = attempt(0, "0001/1", 2.0, 0.5, items=5)  # it took over five of ten
    found = spent(facts(lost, again, done=(0,)))
    assert found.core_hours["useful"] == pytest.approx(0.9 * 1.5 * 10 / 15)
    assert found.core_hours["recomputed"] == pytest.approx(0.9 * 1.5 * 5 / 15)


def test_an_attempt_without_an_item_was_in_vain() -> None:
    killed = attempt(0, "0001/0", 0.0, 3.0, items=0, outcome="interrupted", reached=0)
    found = spent(facts(killed))
    assert found.core_hours["recomputed"] == pytest.approx(2.7)
    assert found.useful == 0


def test_items_of_a_shard_that_is_not_done_count_where_they_are_durable() -> None:
    stopped = attempt(0, "0001/0", 0.0, 1.0, items=8, outcome="failed", reached=8)
    assert spent(facts(stopped)).core_hours["recomputed"] == 0.0


def test_what_is_not_measured_is_said_to_be() -> None:
    old = Attempt(0, "0001-000000000000", 1, "0001/0", "n1", "done", START, START + HOUR, 10, 10)
    found = spent(facts(old, done=(0,)))
    assert found.core_hours["unmeasured"] == pytest.approx(1.0)
    assert (found.useful, found.cpu, found.gpu, found.gpu_memory) == (None, None, None, None)


def test_a_worker_that_only_gave_signs_was_idle() -> None:
    found = spent(facts(signs=(Sign("0001/0", 1, START, START + 2 * HOUR),)))
    assert found.core_hours["idle"] == pytest.approx(2.0)


def test_gpus_count_by_the_time_in_which_they_were_asked() -> None:
    one = attempt(0, "0001/0", 0.0, 3.0, usage={"gpu_utilisation": 0.2, "peak_gpu_memory": 5})
    two = attempt(1, "0001/0", 3.0, 1.0, usage={"gpu_utilisation": 1.0, "peak_gpu_memory": 9})
    found = spent(facts(one, two, done=(0, 1)))
    assert (found.gpu, found.gpu_memory) == (pytest.approx(0.4), 9)


def test_nothing_at_all() -> None:
    found = spent(facts())
    assert (found.allocated, found.useful, found.waits, found.usual_wait) == (0, None, [], 0)
