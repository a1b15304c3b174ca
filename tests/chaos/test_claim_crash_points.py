"""A worker that claims dies at any of its operations, and the others come to the same answer.

Nobody resumes: whoever lives takes over what the dead left. Only who ends before the lease of a
dead one is over may not know of it; then somebody joins. Of the crash points it is a sample in
CI, and all of them with ESPNET3_LONG_TESTS=1, as in `test_crash_points.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.specs import layout
from tests.chaos.claimants import TERMS, claimants, die_everywhere, play
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
    world.end()


def claims_of(world: World) -> list[dict[str, int]]:
    """The claims of the first shard."""
    names = sorted(name for name in world.seen if name.startswith(layout.CLAIMS))
    return [json.loads(world.seen[name]) for name in names if ".part." not in name]


@pytest.mark.parametrize("n_workers", [1, 2, 3])
def test_all_live(world: World, n_workers: int) -> None:
    """A shard is split, and what was split off too."""
    play(world, n_workers, SOME, {}, lambda: require_answer(world))
    claims = claims_of(world)
    assert len(claims) >= n_workers
    firsts = [claim["first"] for claim in claims]
    assert len({*firsts}) == len(firsts)  # nothing was taken over
    assert len(world_module.calls) == 0 or sorted(world_module.calls) == [*range(N_ITEMS)]


@pytest.mark.parametrize(
    ("n_workers", "mortal", "step"),
    [(1, [0], 15), (2, [0], 17), (2, [1], 23), (2, [0, 1], 25), (2, [1, 0], 29), (3, [1], 31),
     (3, [2], 37), (3, [1, 0, 2], 27)],
    ids=["alone", "owner", "helper", "both", "both, helper first", "split", "of a split", "all"],
)  # fmt: skip
def test_some_die(world: World, n_workers: int, mortal: list[int], step: int) -> None:
    every = each(19 if world.objects else step)  # of objects there are few
    n_claims = set()

    def require() -> None:
        require_answer(world)
        n_claims.add(len(claims_of(world)))

    points = die_everywhere(
        world,
        mortal,
        lambda deaths: play(world, n_workers, SOME, deaths, require),
        within=120,
        every=every,
    )
    assert points > (20 if world.objects else 60)
    assert max(n_claims) > n_workers  # somebody took over


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_power_fails_while_they_share(world: World, names: bool) -> None:
    """All die at once, and claims that nobody synced are lost, or hold nothing."""
    before = world.save()
    for operation in range(20, 200, 3 * each(19)):
        world.restore(before)
        with claimants(world) as them:
            for _ in range(2):
                claimant = them.start()
                claimant.die_at(operation)
                them.begin(claimant, SOME)
            them.finish()
            world.cut_power(names=names)
            them.start()
            them.finish()
            require_answer(world)
