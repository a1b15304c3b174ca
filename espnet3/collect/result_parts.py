"""The result files of a run in order, each verified; threads read the next few ahead."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, NamedTuple

from espnet3.collect.unfinished import Positions, Unfinished
from espnet3.errors import DamagedResult
from espnet3.run_dir.verification import BLOCK, IN_MEMORY, mismatch, open_verified, patiently
from espnet3.specs import layout
from espnet3.specs.models import Receipt, ResultPart, RunSpec
from espnet3.storage.base import Store
from espnet3.storage.concurrency import submit_in_context

FEW, MANY = 2, 6  # threads that read and verify parts, of which one writes or decodes
SLOW = 0.2  # seconds for which they may wait for the storage before there are many
GROUP = 64  # parts of less than a block together that one thread takes at once, at most

Shard = Receipt | Unfinished
Take = Callable[[Shard, ResultPart, BinaryIO], None]
_Group = list[tuple[Shard, ResultPart]]


class Vouched(NamedTuple):
    """What collect may merge; `stop` is set where nobody waits for it any more.

    Where it may be partial, shards without a receipt are among `shards`, too, as far as they go;
    `left_out` and `missing` tell what they lack: rank -> state and cause, and positions in the run.
    `skipped` of the recorded errors stand for items that were passed over. `generations` is that of
    each receipt, by rank.
    """

    store: Store
    run: RunSpec
    shards: list[Shard]
    left_out: dict[int, str]
    missing: list[Positions]
    patience: float
    stop: threading.Event
    skipped: int
    generations: Mapping[int, int]

    def open(self, shard: Shard, part: ResultPart) -> BinaryIO:
        """A verified part of a shard's results; lines that are scattered, as they are."""
        if isinstance(shard, Unfinished) and part is shard.scattered:
            return shard.open_scattered()
        return patiently(
            lambda: open_verified(self.store, shard.rank, part), self.patience, self.stop
        )

    def require_wanted(self) -> None:
        """Stop here if nobody waits for it any more."""
        if self.stop.is_set():
            raise asyncio.CancelledError


def take_in_turn(vouched: Vouched, take: Take) -> None:
    """Call `take` with all parts in order, one at a time; the next few are verified meanwhile.

    The thread that verified parts takes them, too: waking another one each time costs more. There
    are many threads once they are seen to wait for the storage, and few while they compute, as they
    would only be in each other's way. These few take several small parts at once.
    """
    bytearray(BLOCK)  # teaches malloc to use the memory of parts again: fresh pages are slow
    waiting: deque[Future[None]] = deque()
    last: Future[None] | None = None
    pace = _Pace()
    with ThreadPoolExecutor(FEW) as few, ThreadPoolExecutor(MANY) as many:
        try:
            for group in _grouped(vouched.shards, pace):
                pool = many if pace.is_slow else few
                was_slow = pace.is_slow
                last = submit_in_context(pool, _verify_and_take, vouched, take, group, last)
                waiting.append(last)
                while len(waiting) > MANY or (waiting and pace.is_slow is not was_slow):
                    waiting.popleft().result()
                    pace.note()
            for future in waiting:
                future.result()
        except BaseException:
            vouched.stop.set()  # nobody waits for those that follow
            for future in waiting:
                future.cancel()
            raise


def read_in_turn(
    vouched: Vouched, read: Callable[[Shard, ResultPart, BinaryIO], Iterable[bytes]]
) -> None:
    """Read all parts in order, one at a time, by what yields all bytes of each.

    Raises:
        DamagedResult: a part has changed since it was verified.
    """

    def take(shard: Shard, part: ResultPart, source: BinaryIO) -> None:
        passed = read(shard, part, source)
        if part.bytes <= IN_MEMORY:
            deque(passed, maxlen=0)
        # A large part is read a second time, and may have changed since the first.
        elif (problem := mismatch(passed, part)) is not None:
            file = vouched.store.locate(f"{layout.RESULTS}/{part.file}")
            raise DamagedResult(file, shard.rank, problem, vouched.store.root)

    take_in_turn(vouched, take)


def _verify_and_take(
    vouched: Vouched,
    take: Take,
    group: _Group,
    before: Future[None] | None,
) -> None:
    """Verify a group's parts, and take them when all before them are taken."""
    with contextlib.ExitStack() as opened:
        sources = [opened.enter_context(vouched.open(*found)) for found in group]
        if before is not None and before.exception() is not None:
            raise asyncio.CancelledError  # the caller meets the other error first
        for found, source in zip(group, sources, strict=True):
            take(*found, source)


class _Pace:
    """Whether the storage is waited for, and how many parts to take at once.

    It is where less than two thirds of one core are in use, for a while; one part that is late does
    not make the storage slow for long.
    """

    def __init__(self) -> None:
        self.is_slow, self.most_parts = False, 1
        self._lost, self._then, self._computed = 0.0, time.perf_counter(), time.process_time()

    def note(self) -> None:
        """Learn from the time since the last call."""
        then, computed = self._then, self._computed
        self._then, self._computed = time.perf_counter(), time.process_time()
        waited = (self._then - then) - 1.5 * (self._computed - computed)
        self._lost = min(max(0.0, self._lost + waited), 2 * SLOW)
        self.is_slow = self._lost > SLOW
        self.most_parts = 1 if waited > 0 else min(2 * self.most_parts, GROUP)


def _grouped(shards: Sequence[Shard], pace: _Pace) -> Iterator[_Group]:
    """All parts in order, in groups."""
    group: _Group = []
    size = 0
    for shard in shards:
        for part in shard.parts:
            if group and (len(group) >= pace.most_parts or size + part.bytes > BLOCK):
                yield group
                group, size = [], 0
            group.append((shard, part))
            size += part.bytes
    if group:
        yield group
