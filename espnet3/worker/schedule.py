"""The rules of the dynamic schedule: which shard next, who is dead, where to split. Pure.

No clock and no file: times are the caller's own monotonic seconds (decision 0019).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from espnet3.run_dir.regions import Region
from espnet3.specs.claims import Claim, WorkerState

SHORTEST_PAUSE = 0.5  # seconds between two signs of life
YOUNG = 2.0  # seconds
KILLS = 3  # workers that ended at one place of a shard without a word
_SHARE = 8  # the part of a shard's time after which its worker looks again


def walk_order(
    ranks: Iterable[int], weights: Sequence[float] | None, place: int, n_places: int
) -> list[int]:
    """The shards in the order in which one worker of many tries them.

    That is the heaviest first, else by rank; of these each worker begins with those at its own
    places, so that workers which begin together do not all want the same.

    Args:
        ranks: the shards.
        weights: of all shards of the run, by rank; None where they are not known.
        place: which worker, from 0.
        n_places: of how many.

    Example:
        >>> walk_order(range(5), None, 1, 2)
        [1, 3, 0, 2, 4]
        >>> walk_order(range(3), [1.0, 5.0, 2.0], 0, 1)
        [1, 2, 0]
    """
    order = list(ranks)
    if weights is not None:
        order.sort(key=lambda rank: -weights[rank])
    place %= n_places
    own = order[place::n_places]
    mine = set(own)
    return [*own, *(rank for rank in order if rank not in mine)]


def pause_before_next_sign(elapsed: float, left: float | None, heartbeat: float) -> float:
    """Seconds until a worker's next sign of life, and its next look for a claim of its shard.

    Short at a shard's beginning and near its end, so that a shard of seconds can be split as well
    as one of hours.

    Args:
        elapsed: seconds since the shard was begun.
        left: seconds that it will still take; None where that is not known.
        heartbeat: seconds at most.
    """
    near = elapsed if left is None else min(elapsed, max(left, 0.0))
    return min(heartbeat, max(SHORTEST_PAUSE, near / _SHARE))


def pace_of(items: int, seconds: float) -> float | None:
    """Items a second; where none is done, what it is at most; None before anything is known."""
    if seconds <= 0:
        return None
    return max(items, 1) / seconds


class Signs:
    """What one observer has seen of other workers' signs of life.

    Two clocks are never compared: a worker is stale where its counter has stayed as it was for as
    long as the lease by the observer's own clock.
    """

    def __init__(self, lease: float) -> None:
        self.lease = lease
        self._seen: dict[str, tuple[int, float]] = {}  # beat, and when it was seen first
        self._looked: dict[str, float] = {}  # when it was looked for last
        self._lived: dict[str, float] = {}  # a moment after which a sign was given

    def see(self, worker: str, beat: int, now: float) -> None:
        """Note a worker's counter; -1 where it has none yet."""
        before = self._seen.get(worker)
        if before is None:
            self._seen[worker] = (beat, now)
        elif before[0] != beat:
            self._seen[worker] = (beat, now)
            self._lived[worker] = self._looked[worker]
        self._looked[worker] = now

    def is_stale(self, worker: str, now: float) -> bool:
        """Whether a worker has given no sign for a lease."""
        seen = self._seen.get(worker)
        return seen is not None and now - seen[1] >= self.lease

    def is_alive(self, worker: str, now: float) -> bool:
        """Whether it is known to have lived less than a lease ago.

        A sign that was found after a long time of not looking may be as old as that.
        """
        lived = self._lived.get(worker)
        return lived is not None and now - lived < self.lease and not self.is_stale(worker, now)


class AtWork(NamedTuple):
    """A region that a worker is at.

    Attributes:
        state: that worker's last sign of life.
        region: the region by the newest claims.
        claims: of its shard.
    """

    state: WorkerState
    region: Region
    claims: list[Claim]


class Split(NamedTuple):
    """Where to cut a region, and what that is good for.

    Attributes:
        first: position of the first item of the second part.
        left: seconds that the region would take without it.
        gained: seconds that the second part will take.
    """

    first: int
    left: float
    gained: float


def shard_paces(states: Iterable[WorkerState]) -> dict[int, float]:
    """Rank -> items a second of the slowest worker at that shard, at most."""
    found: dict[int, float] = {}
    for state in states:
        pace = pace_of(state.computed, state.seconds)
        if state.rank is not None and pace:
            found[state.rank] = min(pace, found.get(state.rank, pace))
    return found


def likely_pace(state: WorkerState, paces: Mapping[int, float]) -> float | None:
    """Items a second of a worker; of one that has computed none yet, as others at its shard.

    Args:
        state: its last sign of life.
        paces: of shards, see `shard_paces`.
    """
    pace = pace_of(state.computed, state.seconds)
    if state.computed or pace is None or state.rank is None:
        return pace
    return min(pace, paces.get(state.rank, pace))


def split_of(state: WorkerState, end: int, pace: float | None, heartbeat: float) -> Split | None:
    """Where to cut the region that a worker is at; None where that does not pay.

    The cut is in the middle of what the worker has not begun by now. From `nearest_cut` on it looks
    for one before it begins an item, so that it needs no time to see it.

    Args:
        state: its last sign of life.
        end: where the region ends by the newest claims.
        pace: items a second of the worker, as far as one can tell.
        heartbeat: as configured.

    Example:
        >>> split_of(state, 100, 2.0, 30.0).first  # doctest: +SKIP
        57
    """
    if state.rank is None or not pace:
        return None
    left = (end - state.position) / pace
    age = pause_before_next_sign(state.seconds, left, heartbeat)  # of its sign, at most
    begun = state.position + 1 + int(pace * age)
    if end - begun < 1:
        return None
    first = begun + (end - begun) // 2
    gained = (end - first) / pace
    return Split(first, left, gained) if gained >= SHORTEST_PAUSE else None


def splits(
    at_work: Iterable[AtWork], heartbeat: float, n_shards: int
) -> list[tuple[Split, AtWork]]:
    """Where to cut, the best first: that is where the second part takes longest.

    Of regions that seem alike the one is first whose items are likely to be longer. Lists are
    often sorted by length, and the shards that are left in the end are those of the long items:
    where they are among the first shards, items get shorter, else longer.

    Args:
        at_work: the regions.
        heartbeat: as configured.
        n_shards: how many shards the run has.
    """
    at_work = list(at_work)
    paces, found = shard_paces(state for state, *_ in at_work), list[tuple[Split, AtWork]]()
    for each in at_work:
        state, region, _ = each
        split = split_of(state, region.end, likely_pace(state, paces), heartbeat)
        if split is not None and region.first < split.first < region.end:
            found.append((split, each))

    def place(one: tuple[Split, AtWork]) -> tuple[float, int]:
        split, (_, region, _) = one
        shorter = 2 * region.claim.rank < n_shards - 1
        return -split.gained, split.first if shorter else -split.first

    return sorted(found, key=place)


def longest_first(at_work: Iterable[AtWork]) -> list[AtWork]:
    """Those of which one can tell how long they will take, the longest first."""
    at_work = list(at_work)
    paces = shard_paces(state for state, *_ in at_work)
    lefts = [
        ((region.end - state.position) / pace, i)
        for i, (state, region, _) in enumerate(at_work)
        if (pace := likely_pace(state, paces)) and not is_young(state)
    ]
    return [at_work[i] for _, i in sorted(lefts, key=lambda each: -each[0])]


def nearest_cut(position: int, end: int) -> int:
    """The first place at which others may cut a region whose worker has said where it is.

    They cut it in the middle, and then perhaps once more before that worker says something else;
    from here on it looks for new claims before it begins an item.

    Example:
        >>> nearest_cut(0, 101), nearest_cut(7, 10), nearest_cut(9, 10)
        (26, 8, 10)
    """
    return position + 1 + max(0, end - position - 1) // 4


def comes_further(places: Sequence[int | None]) -> bool:
    """Whether each worker came further than the one before it; None where that is not known.

    Example:
        >>> comes_further([3, 5, 8]), comes_further([3, 8, 8]), comes_further([None, 3, 4])
        (True, False, False)
    """
    pairs = itertools.pairwise(places)
    return all(a is not None and b is not None and a < b for a, b in pairs)


def is_young(state: WorkerState) -> bool:
    """Whether a worker has begun its shard so lately that its pace says little."""
    return state.seconds < YOUNG


def fits(seconds_left: float | None, expected: float | None) -> bool:
    """Whether a shard may be begun: it would probably end before the worker's time is up.

    Args:
        seconds_left: of the worker's time; None where it has no end.
        expected: seconds that the shard will take; None where that is not known.
    """
    if seconds_left is None:
        return True
    return seconds_left > 0 and (expected is None or expected <= seconds_left)
