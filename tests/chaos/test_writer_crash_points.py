"""Workers whose runner writes die at any operation: each shard's folder is as if none had.

As in `test_crash_points.py` it is a sample of the points in CI, and all of them with
ESPNET3_LONG_TESTS=1. They die at operations of the writers, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.claimants import TERMS, claimants, die_everywhere, play
from tests.chaos.writers_world import Mortal, MortalAppending, WritersWorld
from tests.support import world as world_module
from tests.support.crash_points import crash_everywhere, requeue_a_dead_worker, run_tasks
from tests.support.helpers import LONG, each
from tests.support.mortal import Process
from tests.support.world import N_ITEMS

pytestmark = pytest.mark.timeout(300 if not LONG else 3600)
SOME = 3  # items that each worker computes before the next one joins
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
    world = WritersWorld(tmp_path, monkeypatch, runner, objects=objects, **keys)
    yield world
    world.end()


def test_what_a_dead_worker_wrote_is_not_named_and_what_it_had_synced_not_computed_again(
    world: WritersWorld,
) -> None:
    requeue_a_dead_worker(world)
    goes_on = world.runner.append_only and not world.objects
    assert len(world.durable()) == (2 if goes_on else 0)
    before = len(world_module.calls)
    world.run_queued()
    assert len(world_module.calls) - before == N_ITEMS - (2 if goes_on else 0)
    assert world.collect() == world.expected
    assert len(world.unnamed_folders()) == (0 if world.objects else 1)
    assert world.receipts()[2].salvaged == (2 if goes_on else 0)


def test_worker_dies(world: WritersWorld) -> None:
    requeue_a_dead_worker(world)
    left = 0

    def after(process: Process) -> None:
        nonlocal left
        world.finish()
        left = max(left, len(world.unnamed_folders()))

    every = each(15 if world.objects else 63)
    points = crash_everywhere(world, run_tasks(world), after, every=every)
    assert points > (60 if world.objects else 250)
    assert left == 2 or world.objects  # the predecessor's and that of the one that died


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["opaque", "appending"], indirect=True)
def test_power_fails_while_working(world: WritersWorld, names: bool) -> None:
    """Unsynced bytes, or names too, are lost at any operation and again at the end."""
    requeue_a_dead_worker(world)
    world.cut_power(names=names)

    def after(process: Process) -> None:
        world.cut_power(names=names)
        world.finish()
        world.cut_power(names=names)
        assert world.collect() == world.expected

    assert crash_everywhere(world, run_tasks(world), after, every=each(95)) > 250


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
            them.begin(them.start(), SOME)
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
    taken_over = False

    def require() -> None:
        nonlocal taken_over
        require_whole_claims(world)
        assert world.collect() == world.expected
        taken_over |= any(".1.1." in name for name in world.seen if name.startswith("claims/"))

    points = die_everywhere(
        world,
        mortal,
        lambda deaths: play(world, 3, SOME, deaths, require),
        within=150,
        every=each(35 if world.objects else 107),
    )
    assert points > (20 if world.objects else 100)
    assert taken_over
