"""What a worker that asks for its next shard is given, by what it finds in the run directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.errors import FileTaken
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.models import (
    Claim,
    PartialReceipt,
    ProcessIdentity,
    Receipt,
    Remaining,
    ResultPart,
    Withdrawal,
    WorkerState,
    now,
)
from espnet3.storage.base import Store
from espnet3.worker import claiming, heartbeat, known_claims, other_workers
from espnet3.worker.attempt import Attempt, SchedulerTask
from espnet3.worker.claiming import Claims
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.schedule import KILLS, nearest_cut
from espnet3.worker.shard import Stretch
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.terms import Taken, Terms
from espnet3.worker.usage import Meter
from tests.support import faulty_store
from tests.support.faulty_store import Faults, Rule
from tests.support.worker_runs import submit_again, write_run

LEASE = 20.0
N_ITEMS = 40  # of each shard
NOWHERE = SchedulerTask(None, None)


class StillWaiting(Exception):
    """A worker asked to wait more often than the test lets it."""


class Situation:
    """A run directory, a time, and the workers that are said to be at the run.

    Attributes:
        now: monotonic seconds of all observers.
        on_wait: called when a worker waits, with how often it has.
    """

    def __init__(self, store: Store, n_shards: int = 2, **parallel: Any) -> None:
        self.directory = RunDirectory(store)
        items = range(n_shards * N_ITEMS)
        self.run = write_run(
            store, {}, items, schedule="dynamic", n_shards=n_shards, n_workers=2, **parallel
        )
        store.prepare([layout.CLAIMS, layout.WORKERS, layout.WITHDRAWALS])
        self.now = 0.0
        self.on_wait: Callable[[int], None] = lambda n: None
        self.parallel = parallel
        self._states: dict[str, WorkerState] = {}

    def worker(
        self,
        number: int = 1,
        place: SchedulerTask = NOWHERE,
        n: int = 0,
        of: int = 1,
        *,
        in_order: bool = False,
    ) -> Claims:
        """A worker that asks."""
        beats = Heartbeat(self.directory, number, this_process(), place, 2.0)

        def attempt(rank: int, generation: int) -> Attempt:
            return Attempt(
                self.directory, self.run, rank, number, place, generation, Spare(), Meter()
            )

        terms = Terms(LEASE, 2.0, self.parallel.get("speculate", False), in_order)
        ranks = range(self.run.world_size)
        return Claims(self.directory, self.run, ranks, number, beats, attempt, terms, n, of)

    def ask(self, worker: Claims, most: int = 100) -> tuple[int, int, int] | None:
        """What it gets: rank, first position and the one after the last; None for nothing."""
        taken = self.take(worker, most)
        return None if taken is None else (taken.claim.rank, taken.claim.first, taken.end)

    def take(self, worker: Claims, most: int = 100) -> Taken | None:
        """What it gets.

        Raises:
            StillWaiting: it waited more than `most` times.
        """
        waited = 0

        def wait(seconds: float) -> None:
            nonlocal waited
            waited += 1
            if waited > most:
                raise StillWaiting
            self.now += seconds
            self.on_wait(waited)

        return worker.next(wait)

    # --- what others have left --------------------------------------------------------------------

    def remaining(self, free: list[int], claimed: list[int], run_id: str | None = None) -> None:
        """What is left, as another worker saw it."""
        remaining = Remaining(
            run_id=run_id or self.run.run_id,
            worker=layout.new_attempt(1),
            number=1,
            time=now(),
            free=free,
            claimed=claimed,
        )
        self.directory.renew(remaining)

    def claim(
        self, rank: int, number: int = 0, first: int = 0, *, of: int = 1, **fields: Any
    ) -> Claim:
        """Somebody's claim, on another host where nothing else is said."""
        claim = Claim(
            rank=rank,
            generation=fields.pop("generation", 1),
            number=number,
            first=first,
            attempt=layout.new_attempt(of),
            worker=fields.pop("worker", None) or layout.new_attempt(of),
            process=fields.pop("process", None) or elsewhere(),
            task=fields.pop("task", None),
            job_id=fields.pop("job_id", None),
            time=now(),
        )
        self.directory.publish(claim)
        return claim

    def beat(self, claim: Claim, position: int = 0, end: int = N_ITEMS, **fields: Any) -> None:
        """The next sign of life of a claim's worker, who computes an item a second."""
        before = self._states.get(claim.worker)
        state = WorkerState(
            worker=claim.worker,
            beat=1 if before is None else before.beat + 1,
            process=claim.process,
            task=None,
            job_id=None,
            started=now(),
            time=now(),
            position=position,
            end=end,
            computed=fields.pop("computed", position),
            seconds=fields.pop("seconds", float(position)),
            **{"rank": claim.rank, "claim": claim.number, **fields},
        )
        self._states[claim.worker] = state
        self.directory.renew(state)

    def ended(self, claim: Claim, event: str) -> None:
        """A record of how the attempt of a claim ended."""
        number, place = layout.submission_of(claim.attempt), SchedulerTask(None, None)
        attempt = Attempt(
            self.directory, self.run, claim.rank, number, place, claim.generation, Spare(), Meter()
        )
        attempt.name = claim.attempt
        attempt.record(event, cause="as it happens")

    def vouch(self, claim: Claim, end: int) -> None:
        """A partial receipt of a claim."""
        file = layout.result(claim.rank, claim.attempt, claim.first).rpartition("/")[2]
        part = PartialReceipt(
            rank=claim.rank,
            generation=claim.generation,
            number=claim.number,
            attempt=claim.attempt,
            fingerprint=self.run.fingerprint,
            errors=0,
            salvaged=0,
            parts=[part_of(file, claim.first, end)],
            host="elsewhere",
            created=now(),
        )
        self.directory.publish(part)

    def receipt(self, rank: int, generation: int = 1) -> None:
        """A shard's receipt."""
        attempt = layout.new_attempt(1)
        file = layout.result(rank, attempt, 0).rpartition("/")[2]
        receipt = Receipt(
            rank=rank,
            attempt=attempt,
            fingerprint=self.run.fingerprint,
            records=N_ITEMS,
            errors=0,
            salvaged=0,
            parts=[part_of(file, 0, N_ITEMS)],
            host="elsewhere",
            created=now(),
        )
        self.directory.publish(receipt, generation=generation)

    def failures(self) -> list[str]:
        """The ranks of all records of a failure."""
        names = map(layout.parse_attempt_record, self.directory.store.names(layout.ATTEMPTS))
        return [str(name.rank) for name in names if name is not None and name.event == "failed"]


def part_of(file: str, first: int, end: int) -> ResultPart:
    """A part of a result file; nobody looks at its bytes here."""
    return ResultPart(
        file=file, first=first, records=end - first, bytes=9, checksum="sha256:" + "0" * 64
    )


def elsewhere() -> ProcessIdentity:
    """A process of another host."""
    return ProcessIdentity(host="elsewhere", pid=7, started=1.0, user="ana")


def gone() -> ProcessIdentity:
    """A process of this host that has ended."""
    return this_process().model_copy(update={"started": 1.0})


@pytest.fixture
def there(store: Store, monkeypatch: pytest.MonkeyPatch) -> Situation:
    """A run of two shards that nobody has claimed."""
    situation = Situation(store)
    clock = SimpleNamespace(monotonic=lambda: situation.now)
    for module in (claiming, known_claims, other_workers):
        monkeypatch.setattr(module, "time", clock)
    return situation


# --- what nobody has ------------------------------------------------------------------------------


def test_each_shard_is_given_once(there: Situation) -> None:
    one, other = there.worker(n=0, of=2), there.worker(n=1, of=2)
    given = [there.ask(one), there.ask(other)]
    assert given == [(0, 0, N_ITEMS), (1, 0, N_ITEMS)]


def test_who_finds_the_name_taken_takes_the_next(there: Situation) -> None:
    one, other = there.worker(), there.worker()
    assert there.ask(one) == (0, 0, N_ITEMS)
    assert there.ask(other) == (1, 0, N_ITEMS)


def test_what_has_a_receipt_is_passed_over(there: Situation) -> None:
    there.receipt(0)
    worker = there.worker()
    assert there.ask(worker) == (1, 0, N_ITEMS)
    there.receipt(1)
    assert there.ask(worker) is None


def test_a_claim_costs_no_listing_where_nobody_collides(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = listings(there, monkeypatch)
    worker = there.worker()
    assert there.ask(worker) == (0, 0, N_ITEMS)
    before = len(listed)
    assert there.ask(worker) == (1, 0, N_ITEMS)
    assert len(listed) == before


# --- what one has seen for all --------------------------------------------------------------------


def listings(there: Situation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that are listed from now on."""
    store, listed = there.directory.store, list[str]()
    names = store.names

    def listing(folder: str) -> list[str]:
        listed.append(folder)
        return names(folder)

    monkeypatch.setattr(store, "names", listing)
    return listed


def of_task(there: Situation, n: int, number: int = 1) -> Claims:
    """One of the two workers of a submission."""
    return there.worker(number, SchedulerTask(n, f"7_{n}"), n, 2)


def test_one_listing_serves_all_workers(there: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one shares what the first one knew to be claimed."""
    listed, at = listings(there, monkeypatch), there.claim(1, task=1)
    there.beat(at, 10)
    worker, other = of_task(there, 0), of_task(there, 1)
    assert there.ask(worker) == (0, 0, N_ITEMS)
    there.receipt(0)
    assert there.ask(worker) == (1, 26, N_ITEMS)
    other._look()
    assert there.ask(other) == (1, 19, 26)
    assert listed == [layout.RECEIPTS]


def test_what_is_free_by_anothers_look_is_tried(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = listings(there, monkeypatch)
    there.remaining(free=[1], claimed=[])
    assert there.ask(there.worker(1, SchedulerTask(0, "7_0"))) == (0, 0, N_ITEMS)
    worker = of_task(there, 0)
    there.receipt(0)
    assert there.ask(worker) == (1, 0, N_ITEMS)
    assert layout.RECEIPTS not in listed[1:]


def test_who_has_looked_last_looks_again_where_nobody_has_since(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another worker saw is taken once; else nothing new would ever be seen."""
    listed = listings(there, monkeypatch)
    there.remaining(free=[0, 1], claimed=[])
    worker = of_task(there, 0)
    for _ in range(2):
        worker._look()
    assert listed == [layout.RECEIPTS]
    worker._look()
    assert listed == [layout.RECEIPTS] * 2
    remaining = there.directory.read(Remaining, layout.REMAINING)
    assert (remaining.worker, remaining.number) == (worker._heartbeat.worker, 2)
    assert (remaining.free, remaining.claimed) == ([0, 1], [])


@pytest.mark.parametrize("why", ["damaged", "of another run", "a later submission", "joined"])
def test_it_looks_itself_where_anothers_look_says_nothing(there: Situation, why: str) -> None:
    """Of what a resume withdraws, say, an older look knows nothing."""
    there.remaining(free=[], claimed=[], run_id="0" * 12 if why == "of another run" else None)
    if why == "damaged":
        there.directory.store.replace(layout.REMAINING, b"{")
    number = 2 if why == "a later submission" else 1
    task = NOWHERE if why == "joined" else SchedulerTask(0, "7_0")
    worker = there.worker(number, task, 0, 2)
    worker._look()
    assert not worker._is_over(1)
    before = there.directory.store.read(layout.REMAINING)
    assert (b'"free":[0,1]' in before) == (why in ("damaged", "of another run"))


def test_a_resume_ends_what_was_seen_for_all(there: Situation) -> None:
    """From the moment on at which a living worker finds it."""
    there.remaining(free=[], claimed=[])
    submit_again(there.directory.store, there.run, 2)
    worker = of_task(there, 0)
    worker._look()
    assert not worker._is_over(1)


def test_what_cannot_be_shared_is_passed_over(there: Situation) -> None:
    faulty_store.install(Faults(rules=[Rule("*", layout.REMAINING, "EACCES", times=-1)]))
    try:
        worker = of_task(there, 0)
        assert [there.ask(worker), there.ask(worker)] == [(0, 0, N_ITEMS), (1, 0, N_ITEMS)]
        there.receipt(0)
        there.receipt(1)
        assert there.ask(worker) is None
    finally:
        faulty_store.uninstall()
    assert not there.directory.store.exists(layout.REMAINING)


# --- what somebody has left -----------------------------------------------------------------------


def take_both(there: Situation, **fields: Any) -> Claim:
    """One shard has a receipt, and the other one a claim."""
    there.claim(1)
    there.receipt(1)
    return there.claim(0, **fields)


def test_what_failed_is_set_aside_until_a_later_submission(there: Situation) -> None:
    there.ended(take_both(there), "failed")
    assert there.ask(there.worker(1)) is None
    assert there.ask(there.worker(2)) == (0, 0, N_ITEMS)


def test_what_was_interrupted_is_free_at_once(there: Situation) -> None:
    there.ended(take_both(there), "interrupted")
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)


def test_what_a_process_of_this_host_left_is_free_at_once(there: Situation) -> None:
    take_both(there, process=gone())
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)


def test_a_process_of_this_host_that_lives_is_waited_for(there: Situation) -> None:
    take_both(there, process=this_process())
    with pytest.raises(StillWaiting):
        there.ask(there.worker(), most=0)


@pytest.mark.parametrize("again", [True, False])
def test_a_job_that_was_started_again_takes_its_own_shard(there: Situation, again: bool) -> None:
    take_both(there, job_id="7_3", task=3)
    worker = there.worker(1, SchedulerTask(3 if again else 4, "7_3"))
    if again:
        assert there.ask(worker, most=0) == (0, 0, N_ITEMS)
    else:
        with pytest.raises(StillWaiting):
            there.ask(worker, most=0)


def test_who_said_that_it_ends_is_not_waited_for(there: Situation) -> None:
    claim = take_both(there)
    there.beat(claim, 5, ended=True, rank=None)
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)


@pytest.mark.parametrize("ever", [True, False], ids=["a sign", "no sign"])
def test_who_gives_no_sign_for_a_lease_is_taken_over_from(there: Situation, ever: bool) -> None:
    claim = take_both(there)
    if ever:
        there.beat(claim, 1)
    worker = there.worker()
    waits: list[float] = []
    there.on_wait = lambda n: waits.append(there.now)
    taken = there.take(worker)
    assert taken is not None
    assert taken.claim.number in (1, 2)
    if not ever:
        assert (taken.claim.number, taken.claim.first) == (1, 0)
        assert waits[-1] >= LEASE > waits[-2]


def test_who_gives_signs_is_not_taken_over_from(there: Situation) -> None:
    """Nor is he waited for: the worker that asks ends, and gives its place back."""
    claim = take_both(there)
    there.beat(claim, N_ITEMS - 1)
    there.on_wait = lambda n: there.beat(claim, N_ITEMS - 1)
    assert there.ask(there.worker()) is None
    assert there.now < LEASE


def test_a_clock_that_is_a_day_off_changes_nothing(there: Situation) -> None:
    claim = take_both(there)
    there.beat(claim, N_ITEMS - 1)
    path = layout.worker(claim.worker)
    old = there.directory.store.read(path).replace(b'"time":"20', b'"time":"19')
    there.directory.store.replace(path, old)
    there.on_wait = lambda n: there.beat(claim, N_ITEMS - 1)
    assert there.ask(there.worker()) is None


# --- sharing --------------------------------------------------------------------------------------


def test_what_somebody_is_at_is_shared(there: Situation) -> None:
    claim = take_both(there)
    there.beat(claim, 5)
    taken = there.take(there.worker(), most=0)
    assert taken is not None
    assert (taken.claim.number, taken.end) == (1, N_ITEMS)
    assert 6 < taken.claim.first < N_ITEMS


def test_that_with_most_left_is_shared(there: Situation) -> None:
    there.beat(there.claim(0), 30)
    there.beat(there.claim(1), 10)
    taken = there.take(there.worker(), most=0)
    assert taken is not None
    assert taken.claim.rank == 1


def test_a_split_is_split_again(there: Situation) -> None:
    owner = take_both(there)
    there.beat(owner, 5, 20)
    helper = there.claim(0, 1, 20)
    there.beat(helper, 22, computed=2, seconds=2.0)
    taken = there.take(there.worker(), most=0)
    assert taken is not None
    assert (taken.claim.number, taken.end) == (2, N_ITEMS)
    assert taken.claim.first > 22


def test_two_that_share_at_once_do_not_get_the_same(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who loses the race for the next number looks again, at once."""
    claim = take_both(there)
    there.beat(claim, 5)
    one, other = there.worker(), there.worker()
    publish, taken = RunDirectory.publish, list[Taken | None]()

    def late(self: RunDirectory, record: Any, **keys: Any) -> None:
        if not taken and isinstance(record, Claim) and record.number:
            taken.append(None)
            taken[0] = there.take(other, most=0)
        publish(self, record, **keys)

    monkeypatch.setattr(RunDirectory, "publish", late)
    second = there.take(one, most=0)
    first = taken[0]
    assert first is not None
    assert second is not None
    assert (first.claim.number, second.claim.number) == (1, 2)
    assert second.end == first.claim.first


def test_many_parts_of_one_shard_hide_no_other_shard(there: Situation) -> None:
    for number, first in enumerate(range(0, N_ITEMS, 4)):
        claim = there.claim(0, number, first)
        there.beat(claim, first + 3, first + 4, computed=3, seconds=3.0)
    there.beat(there.claim(1), 5)
    taken = there.take(there.worker(), most=0)
    assert taken is not None
    assert taken.claim.rank == 1


def test_an_item_that_waits_for_a_long_one_is_taken(there: Situation) -> None:
    claim = take_both(there)
    there.beat(claim, N_ITEMS - 2, computed=0, seconds=3.0)
    assert there.ask(there.worker(), most=0) == (0, N_ITEMS - 1, N_ITEMS)


def test_speculation_takes_what_cannot_be_shared(store: Store, there: Situation) -> None:
    claim = take_both(there)
    there.beat(claim, N_ITEMS - 1)
    there.parallel = {"speculate": True}
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)


# --- a shard that kills ---------------------------------------------------------------------------


def die_at(there: Situation, *places: int | None, of: int = 1) -> list[Claim]:
    """Workers die at the first shard one after the other, at these positions."""
    there.receipt(1)
    dead = []
    for number, place in enumerate(places):
        dead.append(there.claim(0, number, process=gone(), of=of))
        if place is not None:
            there.beat(dead[-1], place)
    return dead


@pytest.mark.parametrize("place", [None, 4], ids=["before a sign", "at an item"])
def test_two_deaths_set_nothing_aside(there: Situation, place: int | None) -> None:
    die_at(there, *[place] * (KILLS - 1))
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)
    assert not there.failures()


@pytest.mark.parametrize("places", [(None, None, None), (4, 4, 4), (7, 4, 4), (0, None, 4)])
def test_what_killed_three_is_named(there: Situation, places: tuple[int | None, ...]) -> None:
    die_at(there, *places)
    assert there.ask(there.worker(), most=0) is None
    assert there.ask(there.worker(), most=0) is None
    assert there.failures() == ["0"]  # by whoever saw it first
    assert there.ask(there.worker(2), most=0) == (0, 0, N_ITEMS)  # somebody has resumed


def test_all_who_see_it_at_once_leave_one_record(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at(there, None, None, None)
    exists = there.directory.store.exists

    def before_any(path: str) -> bool:
        return "failed" not in path and exists(path)

    monkeypatch.setattr(there.directory.store, "exists", before_any)
    assert there.ask(there.worker(), most=0) is None
    assert there.ask(there.worker(), most=0) is None
    assert there.failures() == ["0"]


def test_who_comes_further_each_time_is_only_unlucky(there: Situation) -> None:
    die_at(there, 3, 5, 9)
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)
    assert not there.failures()


def test_a_word_makes_it_no_silent_death(there: Situation) -> None:
    there.ended(die_at(there, 4, 4, 4)[0], "interrupted")
    assert there.ask(there.worker(), most=0) == (0, 0, N_ITEMS)


# --- hints that went wrong ------------------------------------------------------------------------


def test_all_is_vouched_for_and_no_receipt_was_written(there: Situation) -> None:
    owner = take_both(there)
    helper = there.claim(0, 1, 20)
    there.vouch(owner, 20)
    there.vouch(helper, N_ITEMS)
    assert there.ask(there.worker(), most=0) == (0, 20, N_ITEMS)


def test_what_nobody_has_vouched_for_after_all_is_taken(there: Situation) -> None:
    """The first claim was another one when its worker vouched for less than it says now."""
    owner = take_both(there)
    helper = there.claim(0, 1, 20)
    there.vouch(owner, 10)
    there.vouch(helper, N_ITEMS)
    assert there.ask(there.worker(), most=0) == (0, 0, 20)


def test_a_receipt_that_comes_meanwhile_is_seen(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_both(there, process=gone())
    worker = there.worker()
    look = worker._list_receipts

    def early() -> None:
        look()
        if not there.directory.store.exists(layout.receipt(0)):
            there.receipt(0)

    monkeypatch.setattr(worker, "_list_receipts", early)
    assert there.ask(worker, most=0) is None


def test_a_claim_that_cannot_be_understood_is_nobodys(there: Situation) -> None:
    """As a failing host leaves it. Where it was the only one, it is waited for like another."""
    claim = take_both(there)
    there.directory.store.replace(layout.path_of(claim), b"\0" * 40)
    assert there.ask(there.worker()) == (0, 0, N_ITEMS)
    assert there.now >= LEASE


def test_claims_that_are_lost_are_made_again(there: Situation) -> None:
    there.receipt(1)
    there.claim(0, 1, 20)
    taken = there.take(there.worker(), most=0)
    assert taken is not None
    assert (taken.claim.number, taken.claim.first) == (0, 0)


def test_claims_that_are_seen_late_are_waited_for(
    there: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder shows a name whose file is not there yet for this host."""
    claim = take_both(there)
    there.beat(claim, 5)
    read, late = there.directory.store.read, [3]

    def reading(path: str, *limit: int) -> bytes:
        if path == layout.path_of(claim) and late[0]:
            late[0] -= 1
            return read("claims/999999.1.0.json", *limit)
        return read(path, *limit)

    monkeypatch.setattr(there.directory.store, "read", reading)
    there.on_wait = lambda n: there.beat(claim, 5)
    taken = there.take(there.worker())
    assert taken is not None
    assert (taken.claim.number, late) == (1, [0])


def test_a_receipt_that_is_withdrawn_meanwhile_makes_its_claims_old(there: Situation) -> None:
    """A worker that lives through a repair claims anew, from number 0."""
    for rank in (0, 1):
        there.claim(rank)
        there.beat(there.claim(rank, 1, 20), 22)
    worker = there.worker()
    with pytest.raises(FileTaken):
        worker._claim(0, [], 0, N_ITEMS)
    worker._list_receipts()
    worker._claims.read(0)
    there.now += 2.0  # a heartbeat, after which it looks again
    there.receipt(0)
    there.receipt(1)
    withdrawal = Withdrawal(
        rank=0,
        generation=1,
        created=now(),
        by=this_process(),
        reason="damaged",
        cause="as it happens",
    )
    there.directory.publish(withdrawal)
    taken = there.take(worker, most=0)
    assert taken is not None
    assert (taken.claim.generation, taken.claim.number, taken.claim.first) == (2, 0, 0)


# --- storage that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", ["ESTALE", "EIO"])
def test_a_sign_that_cannot_be_read_is_passed_over(there: Situation, error: str) -> None:
    """It is no death: only a lease without any change is."""
    claim = take_both(there)
    there.beat(claim, N_ITEMS - 1)
    there.on_wait = lambda n: there.beat(claim, N_ITEMS - 1)
    faulty_store.install(Faults(rules=[Rule("open", "workers/", error, times=2)]))
    try:
        assert there.ask(there.worker()) is None
    finally:
        faulty_store.uninstall()
    assert not there.failures()


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_a_sign_that_cannot_be_written_is_passed_over(
    there: Situation, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    worker = there.worker()
    taken = there.take(worker)
    assert taken is not None
    beats = worker._heartbeat
    beats.begin(Stretch(taken.claim, taken.end), taken.claims, N_ITEMS)
    faulty_store.install(Faults(rules=[Rule("*", "workers/", error, times=-1)]))
    try:
        beats.beat()
        beats.beat()
    finally:
        faulty_store.uninstall()
    beats.beat()
    state = there.directory.read(WorkerState, layout.worker(beats.worker))
    assert state.beat == 3
    assert sum("no sign of life" in line for line in caplog.messages) == 1


def test_a_sign_is_tried_again_on_a_stale_handle(there: Situation) -> None:
    beats = there.worker()._heartbeat
    faulty_store.install(Faults(rules=[Rule("create", "workers/", "ESTALE", times=1)]))
    try:
        beats.beat()
    finally:
        faulty_store.uninstall()
    assert there.directory.read(WorkerState, layout.worker(beats.worker)).beat == 1


def test_claims_that_cannot_be_read_do_not_end_a_worker(there: Situation) -> None:
    """Nor does it wait for them for ever."""
    claim = there.claim(0)
    faulty_store.install(Faults(rules=[Rule("open", layout.path_of(claim), "EACCES", times=-1)]))
    try:
        worker = there.worker()
        assert there.ask(worker) == (1, 0, N_ITEMS)
        there.receipt(1)
        assert there.ask(worker) is None
    finally:
        faulty_store.uninstall()
    assert there.now >= LEASE


def test_an_owner_sees_the_cut_at_its_next_sign(there: Situation) -> None:
    there.receipt(1)
    worker = there.worker()
    taken = there.take(worker)
    assert taken is not None
    stretch = Stretch(taken.claim, taken.end)
    worker._heartbeat.begin(stretch, taken.claims, N_ITEMS)
    there.claim(0, 1, 30)
    worker._heartbeat.beat()
    assert stretch.end == 30
    there.claim(0, 2, 0)  # somebody believes that it is dead
    there.claim(0, 3, 12)
    worker._heartbeat.beat()
    assert stretch.end == 12


@pytest.mark.parametrize("seconds", [1.0, 0.0])
def test_an_owner_begins_no_long_item_that_was_taken(
    there: Situation, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two signs it looks itself, but not for each of many that take no time."""
    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: there.now))
    there.receipt(1)
    worker = there.worker()
    taken = there.take(worker)
    assert taken is not None
    stretch, begun = Stretch(taken.claim, taken.end), []
    worker._heartbeat.begin(stretch, taken.claims, N_ITEMS)
    worker._heartbeat.beat()
    for item, _ in stretch.over(((i, None) for i in range(N_ITEMS)), 0):
        begun.append(item)
        there.now += seconds
        if item == 3:
            there.claim(0, 1, 20)
            there.claim(0, 2, nearest_cut(0, N_ITEMS))
    assert len(begun) == (nearest_cut(0, N_ITEMS) if seconds else N_ITEMS)


def test_what_was_copied_says_nothing_of_the_pace(there: Situation) -> None:
    stretch = Stretch(there.claim(0), N_ITEMS)
    kept: list[tuple[int, str | None]] = [(0, "a line"), (1, "another"), (2, None), (3, None)]
    assert [item for item, _ in stretch.over(kept, 0)] == [0, 1, 2, 3]
    assert (stretch.position, stretch.computed) == (4, 2)


def test_what_this_worker_left_is_its_own_again(there: Situation) -> None:
    """Its create was answered with an error, say, and has been done."""
    worker = there.worker()
    take_both(there, worker=worker._heartbeat.worker, process=this_process())
    assert there.ask(worker, most=0) == (0, 0, N_ITEMS)


def test_what_this_worker_failed_at_is_left_to_a_resume(there: Situation) -> None:
    there.receipt(1)
    worker = there.worker()
    assert there.ask(worker) == (0, 0, N_ITEMS)
    worker.set_aside(0)
    assert there.ask(worker, most=0) is None
    assert os.path.exists(there.directory.store.locate(layout.claim(0, 1, 0)))


def test_the_heaviest_comes_first_but_where_an_order_is_given(store: Store) -> None:
    there = Situation(store, weights=[1.0] * (2 * N_ITEMS - 1) + [1000.0])
    assert there.run.weights == [79.0, 1000.0]
    first = there.take(there.worker(in_order=True))
    assert first is not None
    assert first.claim.rank == 0
    assert [*there.worker()._walk] == [1, 0]
