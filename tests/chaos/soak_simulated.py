"""One run of the soak with simulated processes, which die anywhere (tests/support/mortal.py)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from espnet3.errors import DamagedResult, EspnetError
from espnet3.run import Run
from espnet3.specs import layout
from tests.chaos.tally import Tally
from tests.support.mortal import Died, Process
from tests.support.world import N_ITEMS, N_SHARDS, World


class SimulatedRun:
    """A run, as `soak_real.RealRun`."""

    def __init__(
        self, folder: Path, rng: random.Random, tally: Tally, patch: pytest.MonkeyPatch
    ) -> None:
        self.rng, self.tally = rng, tally
        self.world = World(folder, patch, objects=rng.random() < 0.25)
        tally.runs += 1
        tally.shards += N_SHARDS
        tally.items += N_ITEMS

    def whole(self) -> None:
        """All of its life."""
        world, rng = self.world, self.rng
        try:
            self.dying("submitter", 70, lambda process: world.run(world.submit, process))
            for _ in range(rng.randint(1, 4)):
                self.maybe_cut_power()
                self.dying("resume", 30, lambda process: world.run(world.resume, process))
                for task in world.cluster.queued():
                    self.dying("worker", 50, lambda process, t=task: world.run_task(t, process))
                    if rng.random() < 0.3:
                        task.state = task.state._replace(state="queued", word="REQUEUED")
                        task.restarts += 1
                        self.tally.faults["task requeued"] += 1
                if rng.random() < 0.2:
                    world.cluster.forget_ended()
                    self.tally.faults["ended tasks forgotten by the scheduler"] += 1
            self.tally.resumes += 1
            world.finish()
            for _ in range(rng.randint(0, 2)):
                self.damage()
            self.dying("collect", 25, lambda process: world.run(world.collect_file, process))
            assert world.collect() == world.collect_file() == world.expected
        finally:
            world.end()

    def dying(self, who: str, operations: int, action: object) -> None:
        """Let a process do something; it dies on the way if it comes that far."""
        process = Process(self.rng.randint(1, operations) if self.rng.random() < 0.6 else 0)
        self.tally.resumes += who == "resume"
        try:
            action(process)  # type: ignore[operator]
        except Died:
            self.tally.faults[f"{who} dies (simulated)"] += 1

    def maybe_cut_power(self) -> None:
        """All that was not synced is lost."""
        if self.world.objects or self.rng.random() < 0.7:
            return
        if Path(self.world.run_dir).exists():
            self.world.cut_power(names=self.rng.random() < 0.5)
            self.tally.faults["power cut (simulated)"] += 1

    def damage(self) -> None:
        """Flip a bit in a result file that a receipt vouches for, and repair it."""
        world, rng = self.world, self.rng
        vouched = "".join(
            data.decode() for name, data in world.seen.items() if name.startswith(layout.RECEIPTS)
        )
        names = [n for n in world.seen if n.startswith(layout.RESULTS)]
        name = rng.choice([n for n in names if n.rpartition("/")[2] in vouched])
        data = world.seen[name]
        at = rng.randrange(len(data))
        world.overwrite(
            name, data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        )
        try:
            answer = world.collect()
            # What is behind the last vouched line counts for nothing.
            if answer != world.expected:
                self.tally.unnoticed += 1
        except DamagedResult:
            self.tally.faults["file bit flipped"] += 1
        try:
            world.run(lambda: Run(world.run_dir).resume(repair=True, patience=0))
        except EspnetError as error:
            self.tally.problems.append(f"repair: {error}")
        self.tally.resumes += 1
        world.finish()
