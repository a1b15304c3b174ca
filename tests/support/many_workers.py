"""Many workers of a dynamic run in one process, whose store operations are counted.

Each is the real worker loop in a thread of its own. Time is made up: one thread goes on at a time,
until it waits, and then the one whose waiting ends first. So minutes of many workers take as long
as their files do, and each run with the same seed is the same.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import ProcessIdentity, RunSpec
from espnet3.storage.local import LocalStore
from espnet3.worker import claiming, dynamic, heartbeat, known_claims, other_workers, shard
from espnet3.worker.attempt import Attempt, SchedulerTask
from espnet3.worker.claiming import Claims
from espnet3.worker.computing import Work
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.signals import Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.terms import Taken, Terms
from espnet3.worker.usage import Meter
from tests.support import counting
from tests.support.worker_runs import write_run

CLAIM, SIGN, SHARD = "claim", "sign", "shard"
FIRST_SIGN = 0.05  # seconds after a shard's beginning, as in `Heartbeat`
STARTING = 30.0  # seconds within which the workers begin


class Counted(NamedTuple):
    """What the workers of a run did.

    Attributes:
        shards: how many have a receipt.
        claims: how many claims there are; more than shards where some were shared.
        operations: of the store, by what they were for and by name. `claim` is finding and taking
            the next shard, `sign` are signs of life and the looks for others that go with them,
            `shard` all that a shard of the static schedule costs as well: its spec, results and
            receipt.
        signs: how many signs of life were given.
        seconds: of the made-up time.
    """

    shards: int
    claims: int
    operations: dict[str, Counter[str]]
    signs: int
    seconds: float

    @property
    def for_each_shard(self) -> float:
        """Operations of claiming, for each shard."""
        return self.operations[CLAIM].total() / self.shards

    @property
    def listings(self) -> float:
        """Listings for each hundred claims."""
        return 100 * self.operations[CLAIM]["names"] / self.claims


class _Time:
    """Made-up time, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, int, threading.Semaphore]] = []
        self._number = itertools.count()
        self._nobody = threading.Semaphore(0)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let others go on until it is later by so much."""
        mine = self._enter(self.now + seconds)
        self._go_on()
        mine.acquire()

    def begin(self, function: Callable[[], None], at: float) -> threading.Thread:
        """Call a function in a thread of its own, at that time."""
        mine = self._enter(at)

        def run() -> None:
            mine.acquire()
            try:
                function()
            finally:
                self._go_on()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def run(self) -> None:
        """Go on until all have ended."""
        self._go_on()
        self._nobody.acquire()

    def _enter(self, at: float) -> threading.Semaphore:
        semaphore = threading.Semaphore(0)
        heapq.heappush(self._waiting, (at, next(self._number), semaphore))
        return semaphore

    def _go_on(self) -> None:
        if not self._waiting:
            self._nobody.release()
            return
        self.now, _, semaphore = heapq.heappop(self._waiting)
        semaphore.release()


class _Counter:
    """What the operations that are counted now are for; one thread goes on at a time."""

    def __init__(self) -> None:
        self.operations: dict[str, Counter[str]] = {w: Counter() for w in (CLAIM, SIGN, SHARD)}
        self.what = SHARD

    @contextlib.contextmanager
    def of(self, what: str) -> Iterator[None]:
        before, self.what = self.what, what
        try:
            yield
        finally:
            self.what = before

    def count(self, name: str) -> None:
        self.operations[self.what][name] += 1


class _Claims(Claims):
    """Claims that are counted."""

    counter: _Counter

    def next(self, wait: Callable[[float], None]) -> Taken | None:
        def wait_uncounted(seconds: float) -> None:
            with self.counter.of(SHARD):  # others go on meanwhile, and count theirs
                wait(seconds)
            self.counter.what = CLAIM

        with self.counter.of(CLAIM):
            return super().next(wait_uncounted)


class _Heartbeat(Heartbeat):
    """Signs of life in made-up time: `compute` gives them while an item takes its time."""

    def __init__(self, *args: Any, time: _Time, counter: _Counter) -> None:
        super().__init__(*args)
        self._time, self.counter, self._due = time, counter, 0.0

    def __enter__(self) -> _Heartbeat:  # without the thread
        self.beat()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.beat(ended=True)

    @property
    def signs(self) -> int:
        return self._beat

    def begin(self, *args: Any) -> None:
        super().begin(*args)
        self._due = self._time.now + FIRST_SIGN

    def beat(self, *, ended: bool = False) -> None:
        with self.counter.of(SIGN):
            super().beat(ended=ended)
        self._due = self._time.now + self._pause()

    def compute(self, seconds: float) -> None:
        end = self._time.now + seconds
        while self._due < end:
            self._time.sleep(max(0.0, self._due - self._time.now))
            self.counter.what = SHARD
            self.beat()
        self._time.sleep(end - self._time.now)
        self.counter.what = SHARD


def count_claims(
    folder: Path,
    n_workers: int,
    n_shards: int,
    *,
    items_per_shard: int = 1,
    seconds: float = 20.0,
    seed: int = 0,
    starting: float = STARTING,
    lengths: Sequence[float] = (),
    **parallel: Any,
) -> Counted:
    """Let workers compute a whole dynamic run, and count.

    Args:
        folder: where the run directory goes.
        n_workers: how many workers.
        n_shards: how many shards.
        items_per_shard: how many items each has.
        seconds: what a shard takes on average. Its items take from a tenth of their share of that
            to nineteen tenths, and workers are up to a fifth faster or slower.
        seed: of these.
        starting: seconds within which the workers begin.
        lengths: what each item takes, by all workers, in place of that.
        parallel: other keys of the parallel config.
    """
    store, time, counter = LocalStore(str(folder / "run")), _Time(), _Counter()
    keys = {"schedule": "dynamic", "n_shards": n_shards, "n_workers": n_workers, **parallel}
    run = write_run(store, {}, range(n_shards * items_per_shard), **keys)
    store.prepare([layout.CLAIMS, layout.WORKERS, layout.WITHDRAWALS])
    chance = random.Random(seed)
    beats: list[_Heartbeat] = []
    each = seconds / items_per_shard

    def worker(place: int) -> Callable[[], None]:
        job = SchedulerTask(place, f"1_{place}")
        process = ProcessIdentity(host=f"node{place}", pid=1, started=0.0, user="u")
        directory = RunDirectory(store)
        mine = _Heartbeat(directory, 1, process, job, Terms().heartbeat, time=time, counter=counter)
        beats.append(mine)
        slow = chance.uniform(0.8, 1.2)

        def forward(item: int) -> int:
            made_up = each * slow * random.Random(f"{seed} {item}").uniform(0.1, 1.9)
            mine.compute(lengths[item] if lengths else made_up)
            return item

        return lambda: _work(directory, run, mine, forward, n_workers, counter)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logging.getLogger("espnet3.worker"), "disabled", True)
        for module in (claiming, dynamic, heartbeat, known_claims, other_workers, shard):
            patch.setattr(module, "time", time)
        threads = [
            time.begin(worker(place), chance.uniform(0, starting)) for place in range(n_workers)
        ]
        with counting.counting_store(counter.count):
            time.run()
        for thread in threads:
            thread.join()
    names = [layout.parse_claim(name) for name in store.names(layout.CLAIMS)]
    return Counted(
        shards=len(store.names(layout.RECEIPTS)),
        claims=sum(name is not None and not name.is_part for name in names),
        operations=counter.operations,
        signs=sum(mine.signs for mine in beats),
        seconds=time.now,
    )


def _work(
    directory: RunDirectory,
    run: RunSpec,
    beats: _Heartbeat,
    forward: Callable[[int], int],
    n_workers: int,
    counter: _Counter,
) -> None:
    """What `run_claimed` does once the environment is built."""
    spare, meter, place, signals = Spare(), Meter(), beats.place, Signals()
    spare.give_back()  # many workers would hold many descriptors

    def attempt(rank: int, generation: int) -> Attempt:
        return Attempt(directory, run, rank, 1, place, generation, spare, meter)

    counter.what = SHARD
    ranks = range(run.world_size)
    claims = _Claims(directory, run, ranks, 1, beats, attempt, Terms(), place.task or 0, n_workers)
    claims.counter = counter
    work = Work(directory, run, forward, {}, signals, place)
    loop = dynamic._Worker(directory, run, claims, beats, signals, dynamic.UNBOUNDED, False)
    with beats:
        loop.compute_all(work)
