"""Workers whose runner writes die at any operation: each shard's folder is as if none had.

As in `test_crash_points.py` it is a sample of the points in CI, and all of them with
ESPNET3_LONG_TESTS=1. They die at operations of the writers, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos import writers_world
from tests.chaos.claimants import TERMS, claimants
from tests.chaos.writers_world import Mortal, MortalAppending, WritersWorld
from tests.support import world as world_module
from tests.support.helpers import LONG, each
from tests.support.mortal import Died, Process
from tests.support.world import N_ITEMS, N_SHARDS, crash_everywhere

pytestmark = pytest.mark.timeout(300 if not LONG else 3600)
PER_SHARD = N_ITEMS // N_SHARDS
KINDS = {
    "opaque": (Mortal, False),
    "appending": (MortalAppending, False),
    "objects": (MortalAppending, True),
}


@pytest.fixture(params=KINDS)
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WritersWorld]:
    """A world that nothing has happened to yet."""
    runner, objects = KINDS[request.param]
    keys = getattr(request.function, "keys", {})
    yield WritersWorld(tmp_path, monkeypatch, runner, objects=objects, **keys)
    writers_world.end()
    if objects:
        world_module._restore_memory({})


def with_a_predecessor(world: WritersWorld) -> None:
    """Submit; the task of rank 2 died at its fourth item and was requeued by the scheduler."""
    world.run(world.submit)
    task = world.cluster.tasks[2]

    def die(item: int) -> None:
        if item == 2 * PER_SHARD + 3:
            process.dead = True
            raise Died

    process = Process()
    world_module.in_forward.append(die)
    with pytest.raises(Died):
        world.run_task(task, process)
    world_module.in_forward.remove(die)
    task.state, task.restarts = task.state._replace(state="queued"), 1


def run_tasks(world: WritersWorld) -> Callable[[Process], None]:
    """One process for all queued tasks; what dies is one of them."""

    def work(process: Process) -> None:
        for task in world.cluster.queued():
            world.run_task(task, process)

    return work


def test_what_a_dead_worker_wrote_is_not_named_and_what_it_had_synced_not_computed_again(
    world: WritersWorld,
) -> None:
    with_a_predecessor(world)
    goes_on = world.runner.append_only and not world.objects
    assert len(world.durable()) == (2 if goes_on else 0)
    before = len(world_module.calls)
    world.run_queued()
    assert len(world_module.calls) - before == N_ITEMS - (2 if goes_on else 0)
    assert world.collect() == world.expected
    assert len(world.unnamed_folders()) == (0 if world.objects else 1)
    assert world.receipts()[2].salvaged == (2 if goes_on else 0)


def test_worker_dies(world: WritersWorld) -> None:
    with_a_predecessor(world)
    left = 0

    def after(process: Process) -> None:
        nonlocal left
        world.finish()
        left = max(left, len(world.unnamed_folders()))

    every = each(5 if world.objects else 23)
    points = crash_everywhere(world, run_tasks(world), after, every=every)
    assert points > (60 if world.objects else 250)
    assert left == 2 or world.objects  # the predecessor's and that of the one that died


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["opaque", "appending"], indirect=True)
def test_power_fails_while_working(world: WritersWorld, names: bool) -> None:
    """Unsynced bytes, or names too, are lost at any operation and again at the end."""
    with_a_predecessor(world)
    world.cut_power(names=names)

    def after(process: Process) -> None:
        world.cut_power(names=names)
        world.finish()
        world.cut_power(names=names)
        assert world.collect() == world.expected

    assert crash_everywhere(world, run_tasks(world), after, every=each(37)) > 250


def claiming(test: Callable[..., None]) -> Callable[..., None]:
    """Let a test's run be one of two shards that three workers may claim."""
    test.keys = {"n_workers": 3, "n_shards": 2, **TERMS}  # type: ignore[attr-defined]
    return test


@claiming
def test_all_live_and_none_is_split(world: WritersWorld) -> None:
    """Two have a shard each, and the third one finds nothing that it could share."""
    world.run(world.submit)
    with claimants(world) as them:
        for _ in range(3):
            claimant = them.start()
            wanted = len(world_module.calls) + 3
            while not claimant.ended and len(world_module.calls) < wanted:
                them.advance(claimant, 1)
        them.finish()
        require_whole_claims(world)
        assert sorted(world_module.calls) == [*range(N_ITEMS)]
        assert world.collect() == world.expected
        assert world.unnamed_folders() == set()


def require_whole_claims(world: WritersWorld) -> None:
    """Nothing was claimed, or vouched for, in part."""
    claims = [name for name in world.seen if name.startswith("claims/")]
    assert claims
    assert all(".part." not in name and b'"first":0,' in world.seen[name].replace(b" ", b"")
               for name in claims)  # fmt: skip


@claiming
@pytest.mark.parametrize("mortal", [[0], [0, 1]], ids=["one", "two"])
def test_claimants_die(world: WritersWorld, mortal: list[int]) -> None:
    """Nobody resumes: whoever lives takes over what the dead left, each shard as a whole."""
    world.run(world.submit)
    before, operation, taken_over = world.save(), 1, False
    while True:
        world.restore(before)
        deaths = {mortal[0]: operation} | dict.fromkeys(mortal[1:], 1 + operation * 7 % 150)
        with claimants(world) as them:
            started = []
            for i in range(3):
                started.append(them.start())
                if i in deaths:
                    started[i].die_at(deaths[i])
                wanted = len(world_module.calls) + 3
                while not started[i].ended and len(world_module.calls) < wanted:
                    them.advance(started[i], 1)
            them.finish()
            dead = started[mortal[0]].was_killed
            if not them.somebody_knew:
                them.start()
                them.finish()
            require_whole_claims(world)
            assert world.collect() == world.expected, deaths
            taken_over |= any(".1.1." in name for name in world.seen if name.startswith("claims/"))
        if not dead:
            break
        operation += each(13 if world.objects else 41)
    assert operation > (20 if world.objects else 100)
    assert taken_over
