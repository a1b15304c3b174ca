"""A process that dies at each of its operations in turn, and the states from which it begins."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

from tests.support import world as world_module
from tests.support.mortal import Died, Process
from tests.support.world import N_ITEMS, N_SHARDS, World


def crash_everywhere(
    world: World,
    action: Callable[[Process], None],
    after: Callable[[Process], None],
    *,
    every: int = 1,
) -> int:
    """Let a process die at each of its operations in turn, from the same state, until it lives.

    Args:
        world: as it is before.
        action: what the process does.
        after: what happens after its death, or its end where it lived.
        every: only every so many operations, and the first of each kind.

    Returns:
        How many crash points there were, those that were left out among them.
    """
    before, firsts = world.save(), list[int]()
    if every > 1:
        action(alive := Process())
        after(alive)
        firsts = sorted(alive.first_of.values())
    dies_at = 1
    while True:
        world.restore(before)
        process = Process(dies_at)
        with contextlib.suppress(Died):
            action(process)
        try:
            after(process)
        except BaseException as error:
            error.add_note(f"the process was to die at operation {dies_at}")
            raise
        if not process.dead:
            return process.operations
        later = (first for first in firsts if first > dies_at)
        dies_at = min(next(later, dies_at + every), dies_at + every)


def requeue_a_dead_worker(world: World) -> None:
    """Submit; the task of rank 2 dies after its third item and is requeued by the scheduler."""
    world.run(world.submit)
    task = world.cluster.tasks[2]

    def die(item: int) -> None:
        if item == 2 * (N_ITEMS // N_SHARDS) + 3:
            process.dead = True
            raise Died

    process = Process()
    world_module.in_forward.append(die)
    with pytest.raises(Died):
        world.run_task(task, process)
    world_module.in_forward.remove(die)
    task.state, task.restarts = task.state._replace(state="queued"), 1


def run_tasks(world: World) -> Callable[[Process], None]:
    """One process for all queued tasks; what dies is one of them."""

    def work(process: Process) -> None:
        for task in world.cluster.queued():
            world.run_task(task, process)

    return work
