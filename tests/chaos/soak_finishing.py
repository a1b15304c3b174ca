"""Runs of the soak that finish themselves: nobody resumes by hand, and each comes to its end.

Simulated ones, whose finishers die too, are started again, and meet schedulers that do not answer;
and real ones on `env: local`, whose finishers are killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from espnet3.errors import EspnetError, SchedulerUnavailable
from espnet3.finish import finisher as finisher_module
from espnet3.finish.calls import queue
from espnet3.finish.finisher import Waits, finish
from espnet3.finish.job import TRIES
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.worker_command import parse_arguments
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.finishing import Finished, Finisher
from tests.chaos.soak_real import RealRun, Wrong
from tests.chaos.soak_work import submit
from tests.chaos.tally import Tally
from tests.support import stand_in_cluster
from tests.support.mortal import Died, Process
from tests.support.stand_in_cluster import Task
from tests.support.world import N_ITEMS, N_SHARDS, World

MOST = 60  # finishers of a simulated run
PATIENT = 50.0  # seconds; a scheduler of these runs answers again long before
MANY = {"waves": 40, "max_attempts": 40}


class SimulatedFinishing:
    """A simulated run with a finisher, as `soak_simulated.SimulatedRun`."""

    def __init__(
        self, folder: Path, rng: random.Random, tally: Tally, patch: pytest.MonkeyPatch
    ) -> None:
        self.rng, self.tally = rng, tally
        self.told = folder / "told"
        patch.setattr(finisher_module, "_PAUSES", (0.0, 0.0))
        patch.setattr(finisher_module, "_AFTER_REFUSAL", 0.0)
        keys = {"collect": str(folder / "out.jsonl"), "notify": f"echo told >> {self.told}"}
        objects = rng.random() < 0.25
        self.world = World(folder, patch, objects=objects, finish={**MANY, **keys})
        self.kills = rng.randint(0, 8)  # of workers
        self.ended_badly = False  # the last finisher's job
        self.silent = 0  # questions that the scheduler does not answer
        patch.setattr(self.world.cluster, "require", self._require)
        tally.runs += 1
        tally.shards += N_SHARDS
        tally.items += N_ITEMS

    def whole(self) -> None:
        """All of its life: somebody submits it, and what happens then happens by itself."""
        try:
            self._submit()
            while self._workers() or self._finishers():
                pass
            self._require_end()
            if self.rng.random() < 0.3:  # the same call again finds that all is over
                self.world.run(self.world.submit)
                assert not self.world.cluster.queued()
            assert self.world.run(self.world.collect) == self.world.expected
        finally:
            self.world.end()

    def _submit(self) -> None:
        """Make the call until it returns; whoever makes it may die."""
        while True:
            try:
                self.world.run(self.world.submit, self._mortal("submitter", 90, 0.6))
                return
            except Died:
                self.tally.faults["submitter dies (simulated)"] += 1

    def _mortal(self, who: str, operations: int, chance: float) -> Process:
        return Process(self.rng.randint(1, operations) if self.rng.random() < chance else 0)

    # --- the batch system's side ------------------------------------------------------------------

    def _require(self) -> None:
        if self.silent:
            self.silent -= 1
            raise SchedulerUnavailable(stand_in_cluster.NAME, "connection refused")

    def _workers(self) -> bool:
        """Let what is queued run; of each wave one worker lives, or the wave got no further."""
        queued = self.world.cluster.queued()
        if not queued:
            return False
        survivor = self.rng.choice(queued)
        for task in queued:
            mortal = self.kills > 0 and task is not survivor
            with contextlib.suppress(Died):
                self._worker(task, mortal)
        return True

    def _worker(self, task: Task, mortal: bool) -> None:
        process = self._mortal("worker", 60, 0.8) if mortal else Process()
        try:
            self.world.run_task(task, process)
        except Died:
            self.kills -= 1
            self.tally.faults["worker dies (simulated)"] += 1
            if self.rng.random() < 0.3:  # a finisher may start before it is requeued
                task.state, task.restarts = TaskState("queued", "REQUEUED"), task.restarts + 1
                self.tally.faults["task requeued"] += 1
                if self.rng.random() < 0.5:
                    self._early_finisher()
            raise

    def _early_finisher(self) -> None:
        """Start one although something lives, as where a task is requeued at that moment."""
        for task in self.world.cluster.tasks:
            if task.waits_for is not None and task.state.state == "queued":
                self.tally.faults["finisher starts while a task lives"] += 1
                self._finisher(task)
                return

    def _finishers(self) -> bool:
        ready = self.world.cluster.finishers()
        if self.rng.random() < 0.15:
            self.world.cluster.forget_ended()
            self.tally.faults["ended tasks forgotten by the scheduler"] += 1
        for task in ready:
            self._finisher(task)
        if not ready and not self.world.cluster.queued() and self._read_end() is None:
            self._require_ended_from_outside()
            return True
        assert self.tally.finishers < MOST, "an endless chain"
        return bool(ready)

    # --- finishers --------------------------------------------------------------------------------

    def _finisher(self, task: Task) -> None:
        """The job of a finisher: the process is started again where it dies, or fails."""
        rng = self.rng
        task.state = TaskState("running", "RUNNING")
        if rng.random() < 0.2:
            self.silent = rng.randint(1, 6)
            self.tally.faults["scheduler does not answer for a while"] += 1
        chance, well = rng.choice((0.0, 0.5, 0.9)), False
        for _ in range(TRIES):
            self.tally.finishers += 1
            try:
                self.world.run(lambda: self._work(task), self._mortal("finisher", 120, chance))
                well = True
            except Died:
                self.tally.faults["finisher dies (simulated)"] += 1
                continue
            except EspnetError as error:
                self.tally.problems.append(f"a finisher failed: {error}")
            break
        if rng.random() < 0.2:
            self._two_at_once(task)
            well = True
        self.silent = 0
        task.state = TaskState("ended", "COMPLETED" if well else "FAILED")
        self.ended_badly = not well

    def _two_at_once(self, task: Task) -> None:
        """One stops somewhere while another one does all of the work, and goes on after that."""
        stops_at, reached, goes_on = self.rng.randint(1, 80), threading.Event(), threading.Event()
        problems: list[BaseException] = []

        def pace() -> None:
            if process.operations + 1 == stops_at:
                reached.set()
                # Not for ever: it may hold a lock that only threads of one process share.
                goes_on.wait(5)

        def first() -> None:
            try:
                with process.alive():
                    self._work(task)
            except BaseException as error:  # noqa: BLE001 (raised again below)
                problems.append(error)
            finally:
                reached.set()

        process, thread = Process(pace=pace), threading.Thread(target=first)
        thread.start()
        reached.wait()
        try:
            self.world.run(lambda: self._work(task))
        finally:
            goes_on.set()
            thread.join()
        self.world.look()
        self.tally.finishers += 2
        self.tally.faults["two finishers at once"] += 1
        if problems:
            raise problems[0]

    def _work(self, task: Task) -> Finished | None:
        options = parse_arguments(task.words)
        directory = RunDirectory.open(options.run)
        mine = directory.read(Finisher, layout.finisher(options.number))
        waits = Waits(live=0.0, scheduler=PATIENT)
        return asyncio.run(finish(directory, directory.run(), mine, waits))

    def _require_ended_from_outside(self) -> None:
        """Nothing is to come: only where a finisher died three times somebody queues another."""
        assert self.ended_badly, "the run has no end, and nothing is to come"
        self.tally.faults["finisher's job ended without a word"] += 1
        self.ended_badly = False
        self.world.run(lambda: asyncio.run(queue(self.world.run_dir)))

    def _read_end(self) -> Any:
        data = self.world.seen.get(layout.finished(1))
        return None if data is None else json.loads(data)

    def _require_end(self) -> None:
        world = self.world
        if layout.notified(1) not in world.seen:  # its finisher died between end and command
            assert self.ended_badly, "nobody was told"
            world.run(lambda: asyncio.run(queue(world.run_dir)))
        end = self._read_end()
        assert (end["outcome"], end["n_done"]) == ("done", N_SHARDS), end
        assert layout.finished(2) not in world.seen
        lines = Path(end["results"]).read_text().splitlines()
        assert [json.loads(line)["result"] for line in lines] == world.expected
        self.tally.waves += sum(name.startswith(layout.WAVES) for name in world.seen)


class RealFinishing(RealRun):
    """A real run with a finisher; its processes are killed, and nobody resumes."""

    def __init__(
        self,
        folder: Path,
        rng: random.Random,
        tally: Tally,
        patch: pytest.MonkeyPatch | None = None,
    ) -> None:
        super().__init__(folder, rng, tally, patch)
        if self.on_error == "record":  # else recorded errors would be results
            self.failing = []
            self.mend_items()

    def schedule(self) -> dict[str, Any]:
        keys = super().schedule()
        return {**keys, "finish": {**MANY, "notify": f"echo told >> {self.folder}/told"}}

    def whole(self) -> None:
        try:
            submit(self.folder)
            for _ in range(self.rng.randint(1, 3)):
                self.wave()
                self._maybe_kill_finisher()
            self._require_end()
        finally:
            for process in self.processes():
                process.kill()

    def start_copies(self) -> None:
        """Not here: that is somebody who resumes."""

    def _finishers(self) -> list[psutil.Process]:
        return [p for p in self.processes() if "espnet3.finish" in p.info["cmdline"]]

    def _signal(self, who: str, number: Any) -> None:
        """As for other runs; of a finisher's processes, only the child that works is killed."""
        own = set(self._finishers())
        found = [p for p in self.processes() if p not in own]
        found = [p for p in found if self._is_supervisor(p) == (who == "supervisor")]
        if found:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.rng.choice(found).send_signal(number)
                self.tally.faults[f"{number.name} to {who}"] += 1

    def _maybe_kill_finisher(self) -> None:
        if self.rng.random() < 0.4:
            pids = {p.pid for p in self._finishers()}
            for process in self._finishers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if process.ppid() in pids:
                        process.kill()
                        self.tally.faults["SIGKILL to finisher"] += 1
                        return

    def _require_end(self) -> None:
        path = self.run_dir / layout.finished(1)
        deadline = time.monotonic() + self.longest
        while self.processes():
            if time.monotonic() > deadline:
                raise Wrong(f"still alive after {self.longest} s")
            time.sleep(0.05)
        self._look()
        if not path.exists():
            self.tally.lost += self.n_items
            raise Wrong(f"the run has no end: {self.run.status().finishing}")
        end = json.loads(path.read_bytes())
        self.tally.waves += len(end["waves"])
        self.tally.finishers += len([*(self.run_dir / layout.FINISHERS).glob("????.json")])
        if end["outcome"] == "done":
            lines = Path(end["results"]).read_text().splitlines()
            self.check_answer([json.loads(line)["result"] for line in lines])
        elif end["cause"] == "the last wave got no further":
            self.tally.stalled += 1
        elif not self.failing or not all("is bad" in each["cause"] for each in end["unfinished"]):
            self.tally.lost += self.n_items
            raise Wrong(f"neither done nor stopped by what raised: {end}")
        if not (self.run_dir / layout.notified(1)).exists():
            raise Wrong("nobody was told")
