"""A worker that claims dies at any of its operations, and the others come to the same answer.

Nobody resumes: whoever lives takes over what the dead left. Only who ends before the lease of a
dead one is over may not know of it; then somebody joins. Of the crash points it is a sample in
CI, and all of them with ESPNET3_LONG_TESTS=1, as in `test_crash_points.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from espnet3.specs import layout
from tests.chaos.claimants import TERMS, Claimant, Claimants, claimants
from tests.support import world as world_module
from tests.support.helpers import each
from tests.support.world import N_ITEMS, World, require_answer

SOME = 2  # items that each worker computes before the next one joins


@pytest.fixture(params=["files", "objects"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A run of one shard that four workers may share, and none of which has begun."""
    objects = request.param == "objects"
    world = World(tmp_path, monkeypatch, objects=objects, n_workers=4, n_shards=1, **TERMS)
    world.run(world.submit)
    yield world
    if objects:
        world_module._restore_memory({})


def claims_of(world: World) -> list[dict[str, int]]:
    """The claims of the first shard."""
    names = sorted(name for name in world.seen if name.startswith(layout.CLAIMS))
    return [json.loads(world.seen[name]) for name in names if ".part." not in name]


def begin(them: Claimants, claimant: Claimant) -> None:
    """Let a worker compute its first items, unless it dies before."""
    wanted = len(world_module.calls) + SOME
    while not claimant.ended and len(world_module.calls) < wanted:
        them.advance(claimant, 1)


def play(world: World, n_workers: int, deaths: Mapping[int, int]) -> set[int]:
    """Some workers share a shard, and some of them die of it.

    Args:
        world: as it was submitted.
        n_workers: how many join, one after the other.
        deaths: worker -> at which of its operations it dies.

    Returns:
        Those that did.
    """
    with claimants(world) as them:
        started = []
        for i in range(n_workers):
            claimant = them.start()
            started.append(claimant)
            if i in deaths:
                claimant.die_at(deaths[i])
            begin(them, claimant)
        them.finish()
        dead = {i for i, claimant in enumerate(started) if claimant.was_killed}
        if not them.somebody_knew:
            them.start()
            them.finish()
        require_answer(world)
    return dead


def die_everywhere(world: World, every: int, n_workers: int, *mortal: int) -> tuple[int, set[int]]:
    """Let one of some workers die at its operations in turn; with it others, at others.

    Returns:
        How many crash points there were, and the numbers of claims that a shard had.
    """
    before, operation, seen = world.save(), 1, set()
    while True:
        world.restore(before)
        deaths = {mortal[0]: operation}
        deaths |= dict.fromkeys(mortal[1:], 1 + operation * 7 % 120)
        try:
            dead = play(world, n_workers, deaths)
        except BaseException as error:
            error.add_note(f"they were to die at {deaths}")
            raise
        seen.add(len(claims_of(world)))
        if mortal[0] not in dead:
            return operation, seen
        operation += every


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_all_live(world: World, n_workers: int) -> None:
    """A shard is split, and what was split off too."""
    play(world, n_workers, {})
    claims = claims_of(world)
    assert len(claims) >= n_workers
    firsts = [claim["first"] for claim in claims]
    assert len({*firsts}) == len(firsts)  # nothing was taken over
    assert len(world_module.calls) == 0 or sorted(world_module.calls) == [*range(N_ITEMS)]


@pytest.mark.parametrize(
    ("n_workers", "mortal", "step"),
    [(1, [0], 11), (2, [0], 13), (2, [1], 17), (2, [0, 1], 19), (2, [1, 0], 23), (3, [1], 25),
     (3, [2], 29), (3, [1, 0, 2], 21)],
    ids=["alone", "owner", "helper", "both", "both, helper first", "split", "of a split", "all"],
)  # fmt: skip
def test_some_die(world: World, n_workers: int, mortal: list[int], step: int) -> None:
    every = each(5 if world.objects else step)  # of objects there are few
    points, n_claims = die_everywhere(world, every, n_workers, *mortal)
    assert points > (20 if world.objects else 60)
    assert max(n_claims) > n_workers  # somebody took over


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_power_fails_while_they_share(world: World, names: bool) -> None:
    """All die at once, and claims that nobody synced are lost, or hold nothing."""
    before = world.save()
    for operation in range(20, 200, 3 * each(9)):
        world.restore(before)
        with claimants(world) as them:
            for _ in range(2):
                claimant = them.start()
                claimant.die_at(operation)
                begin(them, claimant)
            them.finish()
            world.cut_power(names=names)
            them.start()
            them.finish()
            require_answer(world)
