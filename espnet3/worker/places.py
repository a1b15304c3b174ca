"""Which shard a worker tries to claim next, of those that may be free (decision 0019). Pure."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_OWN = 2  # of its own places, one after the other, that others have: they come from the end
_MOST_TRIES = 12  # at others' places, one after the other, none of which was free
_MOST_FOUND = 8  # of what a look has shown, one after the other, that others have by now
_JUMP = 0.382  # of what is left: far from where somebody else is


@dataclass
class _Other:
    """Where another worker's places may yet be free: from `first` on, before `end`.

    Attributes:
        place: that worker's.
        first, end: of its places, counted from 0.
        behind: the end before the last try.
        was_free: whether the last try has succeeded, or there was none.
    """

    place: int
    first: int
    end: int
    behind: int = 0
    was_free: bool = True

    def next(self) -> int:
        """Which to try: the last one, where somebody else has that the one in the middle."""
        self.behind = self.end
        self.end = self.end - 1 if self.was_free else (self.first + self.end) // 2
        return self.end

    def was_taken(self, place: int | None) -> None:
        """Note whose the last try was: its own worker comes from the front, others from behind."""
        self.was_free = False
        if place == self.place:
            self.first, self.end = self.end + 1, self.behind


class Places:
    """The shards that a worker tries, one after the other.

    At first these are its own places. Without weights it then takes from the end of another
    worker's places, to where that one comes last. So nothing is listed before nearly all is
    claimed. Then it tries what a look at the receipts has shown not to be done, all of it.

    Args:
        ranks: the shards in the order that all workers share.
        place: which worker, from 0.
        n_places: of how many.
        by_weight: whether the heaviest are first, so that no worker's last ones are to be taken.
        in_order: whether shards are to be tried as they are given.

    Attributes:
        has_dropped: whether some may have been passed over, so that only a look finds them.
    """

    def __init__(
        self, ranks: Sequence[int], place: int, n_places: int, *, by_weight: bool, in_order: bool
    ) -> None:
        self._ranks, self._n_places = ranks, n_places
        place %= n_places
        self._own = deque(ranks[place::n_places])
        self._others = deque[_Other]()  # in an order that differs from worker to worker
        if not by_weight:
            order = [each for each in range(n_places) if each != place]
            random.Random(place).shuffle(order)  # noqa: S311 (no secret)
            self._others += [_Other(each, 0, len(ranks[each::n_places])) for each in order]
        self._found = deque[int]()
        self._share = place / n_places
        self._jump = 0.0 if by_weight or in_order else _JUMP
        self._in_a_row, self.has_dropped = 0, n_places > 1

    @property
    def is_anothers(self) -> bool:
        """Whether it matters whose the next one is, where it is taken."""
        return not self._own and bool(self._others)

    @property
    def may_be_taken(self) -> bool:
        """Whether the next one is likely to be somebody else's, as the last one was."""
        return self._in_a_row > 0

    def next(self) -> int | None:
        """The shard to try next; None where only a look may show another one."""
        if self._own:
            return self._own.popleft()
        while self._others:
            other = self._others[0]
            if other.first < other.end:
                return self._ranks[other.place + other.next() * self._n_places]
            self._others.popleft()
        return self._found.popleft() if self._found else None

    def was_free(self) -> None:
        """Note that the last one was claimed."""
        self._in_a_row = 0
        if not self._own and self._others:
            self._others[0].was_free = True

    def was_taken(self, place: int | None) -> None:
        """Note that somebody else has the last one: the worker of a place, if that is known."""
        self._in_a_row += 1
        if self._own:
            self._give_up(self._own, _MOST_OWN)
        elif self._others:
            self._others[0].was_taken(place)
            self._give_up(self._others, _MOST_TRIES)
        else:
            self._found.rotate(-round(self._jump * len(self._found)))
            self._give_up(self._found, _MOST_FOUND)

    def _give_up(self, untried: deque[int] | deque[_Other], most: int) -> None:
        """Try none of these where too many in a row were taken."""
        if self._in_a_row >= most and untried:
            untried.clear()
            self._in_a_row, self.has_dropped = 0, True

    def look(self, ranks: Sequence[int]) -> None:
        """Try these from now on, each of them, and no others.

        Args:
            ranks: shards that are not done and not known to be claimed.
        """
        # Each worker begins elsewhere, so that those who come here together are in nobody's way.
        start = int(self._share * len(ranks))
        self._own.clear()
        self._others.clear()
        self._found = deque([*ranks[start:], *ranks[:start]])
        self._in_a_row, self.has_dropped = 0, False
