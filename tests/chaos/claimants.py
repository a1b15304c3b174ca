"""Workers of the dynamic schedule that go on only when they are told to, in a time of their own.

They are the copies of `tests/chaos/copies.py`. Time passes where one of them sleeps or computes an
item, and by `Claimants.pass_time`; then all that are not frozen give signs of life. No two seem to
be on one host, so that only these signs tell who lives.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.run_dir.processes import this_process
from espnet3.schedulers.base import TaskState
from espnet3.specs.models import ProcessIdentity
from espnet3.worker import claiming, dynamic, heartbeat, join, known_claims, other_workers, shard
from espnet3.worker.heartbeat import Heartbeat
from tests.chaos.copies import Copy, step_by_step
from tests.support import world as world_module
from tests.support.mortal import current, reach
from tests.support.stand_in_cluster import Task
from tests.support.world import World

ITEM, BEAT, LEASE = 4.0, 2.0, 20.0  # seconds
TERMS: dict[str, Any] = {"schedule": "dynamic", "lease": LEASE, "heartbeat": BEAT}
_LONG = 3000  # turns


class Claimant(Copy):
    """A worker that claims.

    Attributes:
        heartbeat: its signs of life, once it gives any.
        wakes: when it goes on by itself; in the past where it does not sleep.
        joins: whether it belongs to no task.
        is_frozen: whether it stands still and gives no sign of life.
    """

    def __init__(self, world: World, task: Task | None) -> None:
        self.joins = task is None
        self.heartbeat: Heartbeat | None = None
        self.wakes = 0.0
        self.is_frozen = False
        super().__init__(world, task or Task("joined", 0, []), set())

    def _main(self) -> None:
        if self.joins:
            join.main([self.world.run_dir])
        else:
            super()._main()

    @property
    def was_killed(self) -> bool:
        """Whether it has died, rather than come to its end."""
        return self._process.dead

    @property
    def was_told(self) -> bool:
        """Whether it got a signal."""
        return self.signals is not None and self.signals.received is not None

    def die_at(self, operation: int) -> None:
        """Let it die at its so manieth operation from now on."""
        self._process.dies_at = self._process.operations + operation

    def beat(self) -> None:
        """Do what its heartbeat's thread does, between two operations of its own."""
        signs = self.heartbeat
        if (
            signs is not None
            and not self.was_killed
            and not self.ended
            and not signs._lock.locked()
        ):
            signs.beat()


class Claimants:
    """Some workers at one run.

    Attributes:
        now: the time, in seconds.
        all: those that were started and have not ended.
        killed: when the last of them was killed, or ended because it was told to.
        left: when the last of the others ended.
    """

    def __init__(self, world: World) -> None:
        self.world, self.now = world, 1000.0
        self.all: list[Claimant] = []
        self.killed = self.left = 0.0
        self._n_started = 0

    def start(self) -> Claimant:
        """Start a queued task; where there is none, somebody joins."""
        task = next(iter(self.world.cluster.queued()), None)
        if task is not None:
            task.state = TaskState("running", "RUNNING")
        self._n_started += 1
        claimant = Claimant(self.world, task)
        self.all.append(claimant)
        return claimant

    def advance(self, claimant: Claimant, operations: int) -> None:
        """Let one do some operations, up to the next at which time passes."""
        if claimant.wakes > self.now:
            self.pass_time(claimant.wakes - self.now)
        for _ in range(operations):
            claimant.advance(1)
            if claimant.ended or claimant.wakes > self.now:
                break
        self._forget_ended()

    def begin(self, claimant: Claimant, items: int) -> None:
        """Let one compute its first items, unless it dies before."""
        wanted = len(world_module.calls) + items
        while not claimant.ended and len(world_module.calls) < wanted:
            self.advance(claimant, 1)

    def kill(self, claimant: Claimant) -> None:
        """SIGKILL, or its host fails."""
        claimant.kill()
        self._forget_ended()

    def pass_time(self, seconds: float) -> None:
        """Time passes, for all."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + BEAT)
            for claimant in self.all:
                if not claimant.is_frozen:
                    claimant.beat()

    def finish(self) -> None:
        """Let all that are not frozen come to their ends, each in its turn."""
        for _ in range(_LONG):
            going = [each for each in self.all if not each.is_frozen]
            if not going:
                return
            self.advance(min(going, key=lambda each: each.wakes), 20)
        raise AssertionError("they come to no end")

    @property
    def somebody_knew(self) -> bool:
        """Whether one lived for a lease after the last death, so that it knew of all of them."""
        return self.left >= self.killed + LEASE

    def end(self) -> None:
        """Leave no thread behind."""
        for claimant in self.all:
            with contextlib.suppress(AssertionError):
                claimant.kill()
        self.all = []

    def sleep(self, seconds: float) -> None:
        """What `time.sleep` is for them."""
        process = current()
        if hasattr(process, "copy"):
            process.copy.wakes = self.now + seconds
            reach()
        else:
            self.now += seconds

    def identity(self) -> ProcessIdentity:
        """Who a worker is: of a host that nobody else is at."""
        return this_process().model_copy(update={"host": f"node-{self._n_started}"})

    def _forget_ended(self) -> None:
        for claimant in self.all:
            if claimant.ended:
                if claimant.was_killed or claimant.was_told:
                    self.killed = self.now
                else:
                    self.left = self.now
                claimant.task.state = TaskState("ended", "FAILED")
        self.all = [claimant for claimant in self.all if not claimant.ended]


@contextlib.contextmanager
def claimants(world: World) -> Iterator[Claimants]:
    """Workers are claimants, and time is theirs."""
    found = Claimants(world)
    enter = Heartbeat.__enter__

    def enter_known(self: Heartbeat) -> Heartbeat:
        process: Any = current()
        if hasattr(process, "copy"):
            process.copy.heartbeat = self
        return enter(self)

    with pytest.MonkeyPatch.context() as patch, step_by_step():
        clock = SimpleNamespace(monotonic=lambda: found.now, sleep=found.sleep)
        for module in (claiming, dynamic, heartbeat, known_claims, other_workers, shard):
            patch.setattr(module, "time", clock)
        patch.setattr(join, "log_to_stderr", lambda: None)
        patch.setattr(dynamic, "this_process", found.identity)
        patch.setattr(Heartbeat, "__enter__", enter_known)
        patch.setattr(Heartbeat, "_keep_beating", lambda self: None)  # see `Claimant.beat`
        folder = os.getcwd()

        def take_time(item: int) -> None:
            found.sleep(ITEM)

        world_module.in_forward.append(take_time)
        try:
            yield found
        finally:
            found.end()
            world_module.in_forward.remove(take_time)
            os.chdir(folder)


def play(
    world: World, n_workers: int, items: int, deaths: Mapping[int, int], require: Callable[[], None]
) -> set[int]:
    """Some workers share a run, and some of them die of it; whoever lives does the rest.

    Args:
        world: as it was submitted.
        n_workers: how many join, one after the other.
        items: how many each computes before the next one joins.
        deaths: worker -> at which of its operations it dies.
        require: checks what came of it.

    Returns:
        Those that died.
    """
    with claimants(world) as them:
        started = []
        for i in range(n_workers):
            started.append(them.start())
            if i in deaths:
                started[i].die_at(deaths[i])
            them.begin(started[i], items)
        them.finish()
        dead = {i for i, claimant in enumerate(started) if claimant.was_killed}
        if not them.somebody_knew:
            them.start()
            them.finish()
        require()
    return dead


def die_everywhere(
    world: World,
    mortal: Sequence[int],
    play: Callable[[Mapping[int, int]], set[int]],
    *,
    within: int,
    every: int,
) -> int:
    """Let one of some workers die at its operations in turn; with it others, at others.

    Args:
        world: as it is before.
        mortal: the workers, that one first.
        play: what they do; gets who dies at which operation, and returns who did.
        within: the others die within so many operations.
        every: only every so many operations.

    Returns:
        How many operations there were.
    """
    before, operation = world.save(), 1
    while True:
        world.restore(before)
        deaths = {mortal[0]: operation} | dict.fromkeys(mortal[1:], 1 + operation * 7 % within)
        try:
            dead = play(deaths)
        except BaseException as error:
            error.add_note(f"they were to die at {deaths}")
            raise
        if mortal[0] not in dead:
            return operation
        operation += every
