"""The rules of the dynamic schedule: order, pauses, who is alive, where to split."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.run_dir.processes import this_process
from espnet3.run_dir.regions import Region
from espnet3.specs.models import Claim, WorkerState, now
from espnet3.worker.schedule import (
    SHORTEST_PAUSE,
    AtWork,
    Signs,
    comes_further,
    fits,
    is_young,
    longest_first,
    nearest_cut,
    pace_of,
    pause_before_next_sign,
    split_of,
    splits,
    walk_order,
)

LEASE = 20.0
some_seconds = st.floats(0, 1e6)
weights = st.one_of(st.none(), st.lists(st.integers(0, 3), min_size=12, max_size=12))


def state(**fields: Any) -> WorkerState:
    """A sign of life."""
    return WorkerState(
        worker=f"0001-{0:012x}",
        beat=1,
        process=this_process(),
        task=None,
        job_id=None,
        started=now(),
        time=now(),
        **{"rank": 0, **fields},
    )


# --- the order of the shards ----------------------------------------------------------------------


@given(st.sets(st.integers(0, 11)), weights, st.integers(0, 20), st.integers(1, 8))
def test_a_walk_passes_each_shard_once(
    ranks: set[int], weights: list[float] | None, place: int, n_places: int
) -> None:
    assert sorted(walk_order(sorted(ranks), weights, place, n_places)) == sorted(ranks)


@given(st.integers(0, 12), weights, st.integers(1, 8))
def test_workers_begin_with_shards_of_their_own(
    n_shards: int, weights: list[float] | None, n_places: int
) -> None:
    order = walk_order(range(n_shards), weights, 0, 1)
    own = []
    for place in range(n_places):
        mine = len(order[place::n_places])
        own += walk_order(range(n_shards), weights, place, n_places)[:mine]
    assert sorted(own) == [*range(n_shards)]  # disjoint, and all


@given(st.lists(st.integers(0, 3), max_size=12))
def test_the_heaviest_is_first_and_else_the_lowest_rank(weights: list[float]) -> None:
    order = walk_order(range(len(weights)), weights, 0, 1)
    assert order == sorted(order, key=lambda rank: (-weights[rank], rank))


# --- signs of life --------------------------------------------------------------------------------


@given(some_seconds, st.one_of(st.none(), st.floats(-10, 1e6)), st.floats(0.01, 100))
def test_a_pause_is_short_and_never_longer_than_a_heartbeat(
    elapsed: float, left: float | None, heartbeat: float
) -> None:
    pause = pause_before_next_sign(elapsed, left, heartbeat)
    assert min(heartbeat, SHORTEST_PAUSE) <= pause <= heartbeat
    assert pause <= max(SHORTEST_PAUSE, elapsed / 8)


looks = st.lists(st.tuples(st.floats(0.01, 30), st.booleans()), min_size=1, max_size=15)


@given(looks, st.floats(-1e9, 1e9))
def test_only_what_the_observer_saw_in_its_own_time_counts(
    looks: list[tuple[float, bool]], other_clock: float
) -> None:
    """Stale exactly after a lease without change; alive only after a change lately."""
    signs, moment, beat, changed = Signs(LEASE), other_clock, -1, other_clock
    looked, lived = None, None
    for seconds, beats in looks:
        moment += seconds
        if looked is None or beats:
            beat, changed = beat + 1, moment
            lived = looked if looked is not None else None
        signs.see("a", beat, moment)
        looked = moment
        assert signs.is_stale("a", moment) == (moment - changed >= LEASE)
        recent = lived is not None and moment - lived < LEASE
        assert signs.is_alive("a", moment) == (recent and moment - changed < LEASE)


def test_one_that_was_never_looked_for_is_neither() -> None:
    signs = Signs(LEASE)
    assert not signs.is_stale("a", 1e9)
    assert not signs.is_alive("a", 0.0)


def test_one_that_wakes_up_is_alive_again() -> None:
    signs = Signs(LEASE)
    signs.see("a", 5, 0.0)
    assert not signs.is_stale("a", LEASE - 1)
    assert signs.is_stale("a", LEASE)
    signs.see("a", 5, LEASE)
    signs.see("a", 6, LEASE + 1)
    assert signs.is_alive("a", LEASE + 1)
    assert not signs.is_alive("a", 2 * LEASE + 1)


def test_a_counter_that_goes_back_is_a_sign_too() -> None:
    """Caches of a network file system may show an older file."""
    signs = Signs(LEASE)
    signs.see("a", 5, 0.0)
    signs.see("a", 4, 1.0)
    assert signs.is_alive("a", 1.0)


def test_an_old_change_that_is_found_late_says_nothing_of_now() -> None:
    signs = Signs(LEASE)
    signs.see("a", 5, 0.0)
    signs.see("a", 6, 3 * LEASE)
    assert not signs.is_stale("a", 3 * LEASE)
    assert not signs.is_alive("a", 3 * LEASE)


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=2, max_size=4))
def test_coming_further_is_further_each_time(places: list[int | None]) -> None:
    known = [place for place in places if place is not None]
    further = len(known) == len(places) and known == sorted({*known})
    assert comes_further(places) == further


# --- splitting ------------------------------------------------------------------------------------


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.integers(0, 10**6),
    st.floats(0.001, 1e6),
    st.floats(0.01, 100),
)
def test_a_split_is_ahead_of_its_owner_and_within_the_region(
    position: int, left: int, computed: int, seconds: float, heartbeat: float
) -> None:
    end = position + left
    said = state(position=position, end=end, computed=computed, seconds=seconds)
    pace = pace_of(computed, seconds)
    split = split_of(said, end, pace, heartbeat)
    if split is None:
        return
    assert pace is not None
    assert position < split.first < end
    # The owner is not there by now, however old the sign is; and it looks before it begins it,
    # even where somebody else has shared the region since that sign.
    age = pause_before_next_sign(seconds, split.left, heartbeat)
    assert split.first - position >= int(pace * age)
    assert split.first >= nearest_cut(position, end)
    assert (end - split.first) / pace >= SHORTEST_PAUSE
    again = split_of(said, split.first, pace, heartbeat)
    assert again is None or again.first >= nearest_cut(position, end)


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"rank": None, "computed": 9, "seconds": 9.0}, 100),  # it is at no shard
        ({"computed": 0, "seconds": 0.0}, 100),  # nothing is known
        ({"position": 99, "computed": 99, "seconds": 99.0}, 100),  # the last item
        ({"position": 100, "computed": 100, "seconds": 9.0}, 100),  # nothing is left
        ({"position": 120, "computed": 120, "seconds": 9.0}, 100),  # it has gone too far
        ({"position": 10, "computed": 10**6, "seconds": 1.0}, 100),  # it is as good as done
    ],
)
def test_what_does_not_pay_is_not_split(fields: dict[str, Any], end: int) -> None:
    said = state(**fields)
    assert split_of(said, end, pace_of(said.computed, said.seconds), 30.0) is None


def test_half_of_what_is_left_is_taken() -> None:
    split = split_of(state(position=0, computed=10, seconds=10.0), 1000, 1.0, 1.0)
    assert split is not None
    assert 495 < split.first < 510


def at_work(rank: int, number: int, first: int, end: int, **fields: Any) -> AtWork:
    """A region that somebody is at."""
    attempt = f"0001-{number:012x}"
    claim = Claim(
        rank=rank, generation=1, number=number, first=first, attempt=attempt, worker=attempt,
        process=this_process(), task=None, job_id=None, time=now(),
    )  # fmt: skip
    said = state(rank=rank, claim=number, end=end, **{"position": first, **fields})
    return AtWork(said, Region(claim, first, end), [claim])


@pytest.mark.parametrize(("rank", "number"), [(0, 0), (1, 0), (2, 2), (3, 2)])
def test_of_parts_that_seem_alike_the_longest_is_shared_first(rank: int, number: int) -> None:
    """Of a sorted list the heavy shards are left, whose longest items are at that end."""
    parts = [at_work(rank, i, 4 * i, 4 * i + 4, seconds=3.0 - i) for i in range(3)]
    parts.append(at_work(3 - rank, 0, 0, 4, seconds=1.0))
    first, *others = splits(parts, 30.0, 4)
    assert (first[1].region.claim.rank, first[1].region.claim.number) == (rank, number)
    assert len(others) == 3


def test_what_is_left_counts_by_the_slowest_at_a_shard_where_nothing_else_is_known() -> None:
    slow = at_work(0, 0, 0, 5, computed=1, seconds=10.0, position=1)
    fresh = at_work(0, 1, 5, 11, seconds=1.0)
    [one, other] = splits([fresh, slow], 30.0, 4)
    assert (one[1], other[1]) == (fresh, slow)
    assert one[0].left == 60.0


def test_what_has_just_begun_is_not_among_the_longest() -> None:
    parts = [
        at_work(0, 0, 0, 4, seconds=3.0),
        at_work(1, 0, 0, 8, seconds=3.0),
        at_work(2, 0, 0, 99, seconds=1.0),
    ]
    assert longest_first(parts) == [parts[1], parts[0]]


@pytest.mark.parametrize(("seconds", "young"), [(0.0, True), (1.9, True), (2.0, False)])
def test_who_has_just_begun_is_young(seconds: float, young: bool) -> None:
    assert is_young(state(seconds=seconds)) is young


# --- the end of a worker's time -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "expected", "may"),
    [
        (None, None, True),
        (None, 1e9, True),
        (10.0, None, True),
        (10.0, 10.0, True),
        (10.0, 10.1, False),
        (0.0, None, False),
        (-5.0, 0.0, False),
    ],
)
def test_a_shard_is_begun_where_it_fits(
    left: float | None, expected: float | None, may: bool
) -> None:
    assert fits(left, expected) is may
