"""Runs of the soak whose workers claim their shards: with real processes, and simulated ones."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from espnet3.schedulers.base import TaskState
from tests.chaos.claimants import LEASE, TERMS, Claimants, claimants
from tests.chaos.soak_real import RealRun
from tests.chaos.tally import Tally
from tests.support.helpers import ROOT
from tests.support.world import N_ITEMS, World, require_answer

REAL_LEASE, REAL_BEAT = 6.0, 1.0  # seconds
PATIENCE = 60.0  # seconds beyond the lease for which a shard may wait for an idle worker
MOST = 5  # simulated workers at a time


class ClaimedRun(RealRun):
    """A run as `RealRun`, which others join and where workers freeze."""

    def schedule(self) -> dict[str, Any]:
        self.longest = REAL_LEASE + PATIENCE  # some worker idles for all of the time after a fault
        self.joined: list[subprocess.Popen[bytes]] = []
        keys: dict[str, Any] = {"schedule": "dynamic", "lease": REAL_LEASE, "heartbeat": REAL_BEAT}
        keys["speculate"] = self.rng.random() < 0.3
        keys["n_workers"] = self.rng.randint(1, 3)
        if self.rng.random() < 0.5:
            keys["weights"] = [self.rng.choice((1, 2, 30)) for _ in range(self.n_items)]
        return keys

    def whole(self) -> None:
        try:
            super().whole()
        finally:
            for process in self.joined:
                process.wait()

    def _signal(self, who: str, number: signal.Signals) -> None:
        kind = self.rng.random()
        if kind < 0.25:
            self._join()
        elif kind < 0.5 and who == "worker":
            self._freeze()
        else:
            super()._signal(who, number)

    def start_copies(self) -> None:
        """Start more workers; what is being computed now may be so once more where one froze."""
        self.tally.faults["workers added"] += 1
        self._submitting(lambda: self.run.resume(force=True))

    def _join(self) -> None:
        words = [sys.executable, "-m", "espnet3", "work", str(self.run_dir)]
        quiet = subprocess.DEVNULL
        self.joined.append(
            subprocess.Popen(words, cwd=ROOT, stdin=quiet, stdout=quiet, stderr=quiet)
        )
        self.tally.faults["worker joins"] += 1

    def _freeze(self) -> None:
        """Stop a worker for about as long as its lease."""
        found = [each for each in self.processes() if not self._is_supervisor(each)]
        if not found:
            return
        process = self.rng.choice(found)
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
            self.tally.faults["SIGSTOP to worker, SIGCONT"] += 1
        timer = threading.Timer(self.rng.uniform(0.2, 1.5) * REAL_LEASE, _wake, [process])
        timer.daemon = True
        timer.start()


def _wake(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.resume()


class SimulatedClaims:
    """A run as `soak_simulated.SimulatedRun`, whose workers claim (`claimants.py`)."""

    def __init__(
        self, folder: Path, rng: random.Random, tally: Tally, patch: pytest.MonkeyPatch
    ) -> None:
        self.rng, self.tally = rng, tally
        n_shards = rng.choice((1, 2, 4))
        keys = {**TERMS, "speculate": rng.random() < 0.3}
        self.world = World(folder, patch, n_workers=2, n_shards=n_shards, **keys)
        tally.runs += 1
        tally.shards += n_shards
        tally.items += N_ITEMS

    def whole(self) -> None:
        """All of its life."""
        folder = os.getcwd()
        try:
            self.world.run(self.world.submit)
            with claimants(self.world) as them:
                for _ in range(self.rng.randint(10, 60)):
                    self._step(them)
                self._finish(them)
            assert self.world.collect() == self.world.expected
        finally:
            os.chdir(folder)

    def _step(self, them: Claimants) -> None:
        rng, faults = self.rng, self.tally.faults
        if not them.all or (len(them.all) < MOST and rng.random() < 0.2):
            them.advance(them.start(), rng.randint(1, 60))
            return
        claimant, kind = rng.choice(them.all), rng.random()
        if kind < 0.6:
            if not claimant.is_frozen:
                them.advance(claimant, rng.choice((1, 3, 10, 40)))
        elif kind < 0.7:
            claimant.die_at(rng.randint(1, 8))
            claimant.is_frozen = False
            faults["worker that claims dies (simulated)"] += 1
        elif kind < 0.75:
            claimant.send(signal.SIGTERM)
            faults["worker that claims interrupted (simulated)"] += 1
        elif kind < 0.85:
            faults["worker that claims freezes (simulated)"] += not claimant.is_frozen
            claimant.is_frozen = not claimant.is_frozen
        elif kind < 0.9:
            self._requeue()
        elif kind < 0.93:
            self.world.run(self.world.resume)
            self.tally.resumes += 1
        else:
            them.pass_time(rng.choice((1.0, LEASE / 2, 2 * LEASE)))

    def _requeue(self) -> None:
        """Start a task again, whose first process may live on."""
        task = self.rng.choice(self.world.cluster.tasks)
        if task.state.state != "queued":
            task.state, task.restarts = TaskState("queued", "REQUEUED"), task.restarts + 1
            self.tally.faults["task requeued"] += 1

    def _finish(self, them: Claimants) -> None:
        for claimant in them.all:
            claimant.is_frozen = False
        them.finish()
        self.world.run(self.world.resume)
        self.tally.resumes += 1
        while self.world.cluster.queued():
            them.start()
        them.start()  # for all shards
        them.finish()
        require_answer(self.world)
