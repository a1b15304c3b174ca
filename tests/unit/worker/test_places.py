"""Which shards a worker tries, and in which order, by what it finds taken."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.worker.places import Places


def places(n: int, place: int = 0, of: int = 1, **how: bool) -> Places:
    """Of that many shards."""
    return Places(range(n), place, of, **{"by_weight": False, "in_order": False, **how})


def tried(worker: Places, is_free: Callable[[int], bool], owner: int | None = None) -> list[int]:
    """What it tries until only a look may show another one."""
    found = []
    while (rank := worker.next()) is not None:
        found.append(rank)
        if is_free(rank):
            worker.was_free()
        else:
            worker.was_taken(owner)
    return found


sizes = st.tuples(st.integers(0, 60), st.integers(0, 9), st.integers(1, 9), st.booleans())


@given(sizes)
def test_one_that_is_alone_gets_each_once_and_its_own_first(
    size: tuple[int, int, int, bool],
) -> None:
    n, place, of, by_weight = size
    worker = places(n, place, of, by_weight=by_weight)
    found = tried(worker, lambda rank: True)
    own = [*range(n)][place % of :: of]
    assert found[: len(own)] == own
    assert sorted(found) == (own if by_weight else [*range(n)])


@given(sizes, st.sets(st.integers(0, 59)))
def test_what_is_free_is_tried_or_a_look_is_asked_for(
    size: tuple[int, int, int, bool], taken: set[int]
) -> None:
    """Each that is tried is tried once."""
    n, place, of, by_weight = size
    worker = places(n, place, of, by_weight=by_weight)
    found = tried(worker, lambda rank: rank not in taken)
    assert len({*found}) == len(found)
    assert worker.has_dropped or {*found} >= {*range(n)} - taken


@given(st.sets(st.integers(0, 200)), st.sets(st.integers(0, 200)), st.integers(0, 8))
def test_after_a_look_all_that_it_shows_is_tried(
    shown: set[int], taken: set[int], place: int
) -> None:
    """Or, where too many have been taken since, another look is asked for."""
    worker = places(201, place, 9)
    tried(worker, lambda rank: True)
    worker.look(sorted(shown))
    found = tried(worker, lambda rank: rank not in taken)
    assert len({*found}) == len(found)
    assert {*found} <= shown
    assert worker.has_dropped or {*found} == shown


def test_those_who_look_at_once_begin_elsewhere() -> None:
    first = []
    for place in range(4):
        worker = places(40, place, 4)
        worker.look(range(40))
        first.append(worker.next())
    assert first == [0, 10, 20, 30]


def test_it_takes_from_the_end_of_anothers_places() -> None:
    """That one comes from the front."""
    worker = places(20, 0, 2)
    assert tried(worker, lambda rank: True) == [*range(0, 20, 2), *range(19, 0, -2)]


def test_whose_the_place_is_tells_where_it_may_be_free() -> None:
    """Where the owner has the last it tries nothing else there; else it goes to the middle."""
    taken_by_owner = places(16, 0, 2)
    ranks = tried(taken_by_owner, lambda rank: rank % 2 == 0, owner=1)
    assert ranks == [*range(0, 16, 2), 15]
    by_others = places(64, 0, 2)
    ranks = tried(by_others, lambda rank: rank % 2 == 0, owner=7)
    assert ranks[32:] == [63, 31, 15, 7, 3, 1]


@pytest.mark.parametrize("by_weight", [True, False])
def test_its_own_are_left_where_others_have_them(by_weight: bool) -> None:
    """They come from the end, so that all behind are theirs as well."""
    worker = places(100, 0, 2, by_weight=by_weight)
    ranks = tried(worker, lambda rank: False, owner=0)
    assert [rank for rank in ranks if rank % 2 == 0] == [0, 2]
    assert worker.has_dropped


def test_one_that_follows_a_taken_one_may_be_taken() -> None:
    worker, said = places(4), list[bool]()
    for is_taken in (True, False, True, True):
        said.append(worker.may_be_taken)
        worker.next()
        if is_taken:
            worker.was_taken(None)
        else:
            worker.was_free()
    assert said == [False, True, False, True]
