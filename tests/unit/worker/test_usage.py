"""What a worker says that its attempts took."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from espnet3.run_dir.claims import read_partial_receipts
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.models import Claim, RunSpec, Usage, now
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from espnet3.worker.attempt import Attempt, SchedulerTask
from espnet3.worker.computing import Tally, Work, compute_items
from espnet3.worker.result_writer import ResultWriter
from espnet3.worker.shard import Stretch, compute_shard
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.usage import Meter, Spent
from tests.support.worker_runs import (
    receipt_of,
    records_of,
    run_worker,
    submit_again,
    write_run,
)

NOWHERE = SchedulerTask(None, None)


class Clock:
    """Stands still unless a test lets it go on."""

    def __init__(self) -> None:
        self.now, self.looks = 100.0, 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now


def told(spent: Spent) -> Usage:
    usage = spent.usage()
    assert usage is not None
    return usage


# --- the clock ------------------------------------------------------------------------------------


def test_items_that_are_clocked_are_told_apart() -> None:
    clock = Clock()
    spent = Meter(clock=clock).begin()

    def forward(item: float, **env: Any) -> float:
        clock.now += item
        return item

    call = spent.clocked(forward)
    spent.start_clock(0.0)
    for seconds in (0.3, 0.4, 0.5, 1.5, 0.0, 1e9 * 8):
        assert call(seconds, a=1) == seconds
        clock.now += 7.0  # of our own
    assert not spent.count(6, 0.0)
    usage = told(spent)
    assert usage.item_seconds == [(-30, 1), (-2, 2), (-1, 1), (0, 1), (30, 1)]
    assert usage.forward == pytest.approx(2.7 + 8e9)
    assert usage.seconds == pytest.approx(2.7 + 8e9 + 6 * 7)
    assert usage.items == 6


def test_fast_items_share_what_passed_but_for_what_the_storage_took() -> None:
    clock = Clock()
    spent = Meter(clock=clock).begin()
    spent.start_clock(0.5)
    clock.now += 2.0
    assert spent.count(1 << 15, 1.5)  # a second in all
    assert told(spent).item_seconds == [(-15, 1 << 15)]
    assert told(spent).forward == pytest.approx(1.0)
    clock.now += 1.0
    assert not spent.count((1 << 15) + 4, 1.5)  # 0.25 s each: the next ones are clocked
    assert told(spent).item_seconds == [(-15, 1 << 15), (-2, 4)]


def test_where_nothing_was_computed_nothing_is_shared() -> None:
    clock = Clock()
    spent = Meter(clock=clock).begin()
    spent.start_clock(0.0)
    clock.now += 1.0
    assert not spent.count(0, 0.0)
    assert (told(spent).forward, told(spent).item_seconds) == (0.0, [])


def compute(
    store: Store, clock: Clock, items: list[float], spent: Spent, stop_at: int | None = None
) -> None:
    """Items that take what they say, computed as a worker does."""
    run = write_run(store, {}, n_shards=1)
    count = itertools.count()

    def forward(item: float) -> float:
        if next(count) == stop_at:
            clock.now += 5.0
            raise Interrupted("SIGTERM")
        clock.now += item
        return item

    work = Work(RunDirectory(store), run, forward, {}, Signals(), NOWHERE)
    with ResultWriter(store, 0, layout.new_attempt(1), 0, 1000.0) as writer:
        tally = Tally(0, None, 0)
        compute_items(work, writer, ((item, None) for item in items), tally, spent)
        writer.finish()


def computed(store: Store, clock: Clock, items: list[float]) -> Usage:
    """What computing items takes."""
    spent = Meter(clock=clock).begin()
    compute(store, clock, items, spent)
    return told(spent)


def test_slow_items_are_all_clocked(store: Store) -> None:
    clock = Clock()
    usage = computed(store, clock, [0.1, 3.0] * 500)
    assert usage.item_seconds == [(-4, 500), (1, 500)]
    assert usage.forward == pytest.approx(1550.0)


def test_fast_items_hardly_look_at_the_clock(store: Store) -> None:
    clock = Clock()
    usage = computed(store, clock, [1e-6] * 100_000)
    assert usage.items == 100_000 == sum(n for _, n in usage.item_seconds)
    assert clock.looks < 100_000 / 200
    assert usage.forward <= 0.1 + 1e-6


def test_items_that_become_slow_are_clocked_again(store: Store) -> None:
    clock = Clock()
    usage = computed(store, clock, [1e-6] * 5000 + [1.0] * 3000)
    assert usage.items == 8000 == sum(n for _, n in usage.item_seconds)
    assert dict(usage.item_seconds)[0] > 1000
    assert usage.forward == pytest.approx(3000, abs=1.0)


def test_an_item_that_was_abandoned_took_time_and_is_none(store: Store) -> None:
    clock = Clock()
    spent = Meter(clock=clock).begin()
    with pytest.raises(Interrupted):
        compute(store, clock, [1.0] * 10, spent, stop_at=7)
    assert told(spent).item_seconds == [(0, 7)]
    assert told(spent).forward == pytest.approx(12.0)


# --- the process ----------------------------------------------------------------------------------


def test_the_first_record_of_a_process_has_what_came_before_it() -> None:
    clock, cpu = Clock(), Clock()
    meter = Meter(clock=clock, cpu=cpu)
    cpu.now = 3.0
    with meter.building():
        clock.now += 20.0
    passed_over, first = meter.begin(), meter.begin()
    clock.now, cpu.now = clock.now + 1.0, cpu.now + 2.0
    assert (told(first).environment, told(first).cpu) == (20.0, 2.0)
    del passed_over
    second = meter.begin()
    clock.now, cpu.now = clock.now + 4.0, cpu.now + 1.5
    usage = told(second)
    assert (usage.environment, usage.cpu, usage.seconds) == (0.0, 1.5, 4.0)


def test_a_measurement_that_fails_costs_nothing_else() -> None:
    def cpu() -> float:
        raise OSError("no such clock")

    meter = Meter()
    spent = meter.begin()
    meter.cpu = cpu
    assert spent.usage() is None


# --- in runs --------------------------------------------------------------------------------------


def check(usage: Usage | None, items: int) -> Usage:
    """A plausible usage of that many items."""
    assert usage is not None
    assert usage.items == items == sum(n for _, n in usage.item_seconds)
    assert 0 <= usage.forward <= usage.seconds < 120
    assert usage.peak_memory is not None
    assert usage.peak_memory > 1 << 20
    assert (usage.peak_gpu_memory, usage.gpu_utilisation) == (None, None)
    return usage


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_receipts_say_it(store: Store, schedule: str) -> None:
    more: dict[str, Any] = {"shards_per_job": 3} if schedule == "static" else {"n_workers": 1}
    write_run(store, {}, range(300), n_shards=3, schedule=schedule, **more)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    assert run_worker(store.root).returncode == exit_codes.DONE
    found = [check(receipt_of(store, rank).usage, 100) for rank in range(3)]
    [first] = [usage for usage in found if usage.environment]
    assert first.began == min(usage.began for usage in found)
    assert first.cpu > max(usage.cpu for usage in found if usage is not first)


def test_what_was_taken_over_is_not_among_the_items(store: Store) -> None:
    run = write_run(store, {"at": 3, "do": "raise", "trouble": "ValueError"}, n_shards=1)
    run_worker(store.root)
    submit_again(store, run, 2)
    run_worker(store.root, number=2)
    first, second = records_of(store, "failed")
    assert (first.items_done, second.items_done) == (3, 3)
    check(first.usage, 3)
    check(second.usage, 0)


def test_an_environment_that_fails_took_time(store: Store) -> None:
    write_run(store, {"raises": "ValueError"}, n_shards=2, shards_per_job=2)
    run_worker(store.root)
    first, second = (check(record.usage, 0) for record in records_of(store, "failed"))
    assert (first.environment > 0, second.environment) == (True, 0.0)


def test_what_another_worker_says_of_an_attempt_has_none(store: Store) -> None:
    run = write_run(store, {}, n_shards=1)
    own = Attempt(RunDirectory(store), run, 0, 1, NOWHERE, 1, Spare(), Meter())
    own.in_place_of(layout.new_attempt(1)).record("failed", cause="it ended without a word")
    [record] = records_of(store, "failed")
    assert record.usage is None


def compute_part(work: Work, number: int, first: int, end: int, run: RunSpec) -> None:
    """One worker's part of a shard."""
    spare = Spare()
    attempt = Attempt(work.directory, run, 0, 1, NOWHERE, 1, spare, Meter())
    claim = Claim(
        rank=0,
        generation=1,
        number=number,
        first=first,
        attempt=attempt.name,
        worker=layout.new_attempt(1),
        process=this_process(),
        task=None,
        job_id=None,
        time=now(),
    )
    work.directory.publish(claim)
    assert compute_shard(work, attempt, [], Stretch(claim, end))
    spare.give_back()


def test_parts_of_a_shard_say_it_and_its_receipt_does_not_again(store: Store) -> None:
    run = write_run(store, {}, range(10), schedule="dynamic", n_shards=1)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    work = Work(RunDirectory(store), run, lambda item: item, {}, Signals(), NOWHERE)
    compute_part(work, 0, 0, 6, run)
    compute_part(work, 1, 6, 10, run)
    parts = read_partial_receipts(work.directory, run, 0, 1)
    assert [check(part.usage, n).items for part, n in zip(parts, (6, 4), strict=True)] == [6, 4]
    assert receipt_of(store).usage is None
