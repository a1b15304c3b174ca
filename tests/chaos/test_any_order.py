"""Whatever happens to a run, in whatever order, its promises hold (docs/guarantees.md).

A stateful test: hypothesis submits, starts, lets go on, kills, requeues, resumes, cancels, damages
and collects as it likes, and makes a failing sequence short. The batch system is a stand-in; the
workers are real ones that go on an operation at a time (`tests/chaos/copies.py`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from espnet3.collect.vouching import PartialResults
from espnet3.errors import (
    DamagedResult,
    IncompleteRun,
    RunDirectoryError,
    SchedulerUnavailable,
    SubmissionRefused,
)
from espnet3.run import Run
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.items import shard_bounds
from tests.chaos.copies import Copy, step_by_step
from tests.support.helpers import LONG
from tests.support.mortal import Died, Process
from tests.support.stand_in_cluster import Task
from tests.support.world import N_ITEMS, N_SHARDS, World

which = st.integers(0, 10**6)
death = st.one_of(st.just(0), st.integers(1, 80))


class AnyOrder(RuleBasedStateMachine):
    """One run."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="any-order-")))
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        self.world = World(folder, patch)
        self.stack.callback(os.chdir, os.getcwd())
        self.stack.enter_context(step_by_step())
        self.cluster = self.world.cluster
        self.cluster.cancelled = lambda task: self._send(task, signal.SIGTERM)
        self.copies: list[Copy] = []
        self.damaged = False

    # --- the submitter's side ---------------------------------------------------------------------

    @initialize(dies_at=st.one_of(st.just(0), death))
    def submit(self, dies_at: int) -> None:
        self._driver(dies_at, self.world.submit)

    @rule(dies_at=death, again=st.booleans())
    def resume(self, dies_at: int, again: bool) -> None:
        self._driver(dies_at, self.world.submit if again else self.world.resume)

    @rule(force=st.booleans(), ranks=st.sets(st.integers(0, N_SHARDS - 1), min_size=1))
    def resume_some(self, force: bool, ranks: set[int]) -> None:
        if self._there():
            self._driver(0, lambda: self.world.resume(ranks=ranks, force=force))

    @rule()
    def cancel(self) -> None:
        if self._there():
            self._driver(0, lambda: Run(self.world.run_dir).cancel())

    @rule()
    def repair(self) -> None:
        if self._there():
            self._driver(0, lambda: Run(self.world.run_dir).resume(repair=True, patience=0))
            self.damaged = self.damaged and not self.cluster.answers

    def _driver(self, dies_at: int, action: object) -> None:
        """What somebody does on the login node; he may die of it, or get no answer."""
        with contextlib.suppress(Died, SchedulerUnavailable, SubmissionRefused):
            self.world.run(action, Process(dies_at))  # type: ignore[arg-type]

    def _there(self) -> bool:
        return layout.RUN in self.world.seen

    # --- the batch system's side ------------------------------------------------------------------

    @precondition(lambda self: self.cluster.queued())
    @rule(n=which)
    def start(self, n: int) -> None:
        queued = self.cluster.queued()
        task = queued[n % len(queued)]
        task.state = TaskState("running", "RUNNING")
        # Tasks of the first submission have no predecessors that they would look for.
        looks = task.restarts > 0 or "0001" not in task.words
        self.copies.append(Copy(self.world, task, self.world.durable() if looks else set()))

    @precondition(lambda self: self.cluster.queued())
    @rule(n=which, operations=st.integers(15, 50), again=st.booleans())
    def start_and_die(self, n: int, operations: int, again: bool) -> None:
        """Often, so that many a task finds something to go on from."""
        self.start(n)
        self.copies[-1].advance(operations)
        if again:
            self.requeue(len(self.copies) - 1, dead=True)
        else:
            self.copies[-1].kill()

    @precondition(lambda self: self.copies)
    @rule(n=which, operations=st.integers(1, 40))
    def progress(self, n: int, operations: int) -> None:
        self._chosen(n).advance(operations)

    @precondition(lambda self: self.copies)
    @rule(n=which)
    def end(self, n: int) -> None:
        self._chosen(n).finish()

    @precondition(lambda self: self.copies)
    @rule(n=which)
    def kill(self, n: int) -> None:
        self._chosen(n).kill()

    @precondition(lambda self: self.copies)
    @rule(n=which, number=st.sampled_from([signal.SIGTERM, signal.SIGUSR1]))
    def tell(self, n: int, number: signal.Signals) -> None:
        self._chosen(n).send(number)

    @precondition(lambda self: self.copies)
    @rule(n=which, dead=st.booleans())
    def requeue(self, n: int, dead: bool) -> None:
        """The copy is killed before that, or lives on behind the scheduler's back."""
        copy = self._chosen(n)
        if dead:
            copy.kill()
        if copy.task.restarts == copy.restarts:
            copy.task.state, copy.task.restarts = TaskState("queued", "REQUEUED"), copy.restarts + 1

    @precondition(lambda self: self.cluster.queued())
    @rule(n=which, turns=st.lists(st.tuples(st.booleans(), st.integers(1, 40)), max_size=8))
    def race(self, n: int, turns: list[tuple[bool, int]]) -> None:
        """A requeue leaves the old copy alive, and both come to their ends."""
        self.start(n)
        old = self.copies[-1]
        old.advance(10)
        if old.ended:
            return
        self.requeue(len(self.copies) - 1, dead=False)
        self.start(self.cluster.queued().index(old.task))
        new = self.copies[-1]
        for which_one, operations in turns:
            (old if which_one else new).advance(operations)
        new.finish()
        old.finish()

    @precondition(lambda self: self.copies)
    @rule(n=which)
    def node_vanishes(self, n: int) -> None:
        """The scheduler believes that the task has ended, but it lives."""
        self._chosen(n).task.state = TaskState("ended", "NODE_FAIL", stopped="node failed")

    @rule(answers=st.sampled_from([True, True, False]))
    def scheduler_goes(self, answers: bool) -> None:
        self.cluster.answers = answers

    @rule()
    def scheduler_forgets(self) -> None:
        self.cluster.forget_ended()

    def _chosen(self, n: int) -> Copy:
        return self.copies[n % len(self.copies)]

    def _send(self, task: Task, number: signal.Signals) -> None:
        for copy in self.copies:
            if copy.task is task:
                copy.send(number)

    # --- the storage's side -----------------------------------------------------------------------

    @precondition(lambda self: not self.damaged)
    @rule(n=which, at=which, truncate=st.booleans())
    def damage(self, n: int, at: int, truncate: bool) -> None:
        """Change what a receipt vouches for in a result file that nobody writes any more.

        What no receipt vouched for yet could not be told from a result (docs/guarantees.md).
        """
        world = self.world
        vouched: dict[str, int] = {}
        for name, data in world.seen.items():
            if name.startswith(layout.RECEIPTS):
                for part in json.loads(data)["parts"]:
                    file = f"{layout.RESULTS}/{part['file']}"
                    vouched[file] = max(part["bytes"], vouched.get(file, 0))
        live = {name for copy in self.copies for name in copy.files}
        names = [name for name in sorted(vouched) if name not in live and world.seen[name]]
        if not names:
            return
        name = names[n % len(names)]
        data = world.seen[name]
        at %= min(len(data), vouched[name])
        rest = b"" if truncate else bytes([data[at] ^ 1]) + data[at + 1 :]
        world.overwrite(name, data[:at] + rest)
        self.damaged = True

    # --- what must be true ------------------------------------------------------------------------

    @invariant()
    def nothing_durable_is_computed_again(self) -> None:
        for copy in self.copies:
            assert not copy.again, f"durable items {copy.again} were computed again"
            current = copy.task.restarts == copy.restarts and copy.task.state.state == "running"
            if copy.ended and current:
                copy.task.state = TaskState("ended", "FAILED")
        self.copies = [copy for copy in self.copies if not copy.ended]

    @rule()
    def status(self) -> None:
        if self._there():
            seen = self.world.run(Run(self.world.run_dir).status)
            done = {shard.rank for shard in seen.shards if shard.state == "done"}
            assert done == self._ranks_with_receipts()
            if not self.damaged:
                assert seen.progress.done == len(self._there_or_durable())

    @rule(partial=st.booleans())
    def collect(self, partial: bool) -> None:
        """All of it or an error that names what is missing; in part, what is durable, too."""
        world, run = self.world, Run(self.world.run_dir)
        there = self._ranks_with_receipts()
        missing = set() if partial else {*range(N_SHARDS)} - there
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PartialResults)
                answer = world.run(lambda: run.collect(partial=partial, patience=0))
        except RunDirectoryError:
            assert not self._there()
        except IncompleteRun as error:
            missing = {*error.causes}
        except DamagedResult:
            assert self.damaged
        else:
            items = self._there_or_durable() if partial else range(N_ITEMS)
            assert answer == [world.expected[i] for i in sorted(items)]
        assert partial or missing == {*range(N_SHARDS)} - there

    def _there_or_durable(self) -> set[int]:
        """The items of shards with receipts, and those whose results are there without one."""
        bounds = [shard_bounds(rank, N_SHARDS, N_ITEMS) for rank in self._ranks_with_receipts()]
        return self.world.durable() | {i for first, end in bounds for i in range(first, end)}

    def _ranks_with_receipts(self) -> set[int]:
        """By the newest receipt, unless it is withdrawn."""
        names = [name.rpartition("/") for name in self.world.seen]
        receipts = {name for folder, _, name in names if folder == layout.RECEIPTS}
        withdrawn = {name for folder, _, name in names if folder == layout.WITHDRAWALS}
        found = set()
        for rank in range(N_SHARDS):
            generation = 1 + sum(name.startswith(f"{rank:06d}.") for name in withdrawn)
            if layout.receipt(rank, generation).rpartition("/")[2] in receipts:
                found.add(rank)
        return found

    def teardown(self) -> None:
        """In the end all comes together."""
        try:
            self.cluster.answers = True
            for copy in self.copies:
                copy.finish()
                copy.task.state = TaskState("ended", "FAILED")
                assert not copy.again
            self.copies = []
            if self.damaged:
                self._driver(0, lambda: Run(self.world.run_dir).resume(repair=True, patience=0))
            self._finish()
        finally:
            for copy in self.copies:
                with contextlib.suppress(AssertionError):
                    copy.kill()
            self.stack.close()

    def _finish(self) -> None:
        world = self.world
        for _ in range(3):
            while queued := self.cluster.queued():
                copy = Copy(world, queued[0], set())
                copy.finish()
                copy.task.state = TaskState("ended", "COMPLETED")
            self._driver(0, world.resume)
        assert not self.cluster.queued()
        assert world.run(world.collect) == world.expected


TestAnyOrder = pytest.mark.timeout(1200)(AnyOrder.TestCase)
TestAnyOrder.settings = settings(
    max_examples=1000 if LONG else 20,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)
