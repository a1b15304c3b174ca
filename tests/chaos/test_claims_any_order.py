"""Whatever claiming workers do at once, in whatever order, every shard is computed, and right.

Hypothesis lets workers start, go on an operation at a time, freeze, wake up and die as it likes,
and makes a failing sequence short. The workers are real ones (`tests/chaos/claimants.py`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from espnet3.schedulers.base import TaskState
from tests.chaos.claimants import LEASE, TERMS, Claimant, claimants
from tests.support.helpers import LONG
from tests.support.world import World, require_answer

which = st.integers(0, 10**6)
operations = st.one_of(st.integers(1, 6), st.integers(1, 80))
MOST = 5  # workers at a time


class ClaimsInAnyOrder(RuleBasedStateMachine):
    """One run that workers share."""

    @initialize(n_shards=st.sampled_from([1, 2, 4]), speculate=st.booleans())
    def submit(self, n_shards: int, speculate: bool) -> None:
        self.stack = contextlib.ExitStack()
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="claims-")))
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        self.stack.callback(os.chdir, os.getcwd())
        terms: dict[str, Any] = {**TERMS, "speculate": speculate}
        self.world = World(folder, patch, n_workers=2, n_shards=n_shards, **terms)
        self.world.run(self.world.submit)
        self.them = self.stack.enter_context(claimants(self.world))

    # --- workers ----------------------------------------------------------------------------------

    @precondition(lambda self: len(self.them.all) < MOST)
    @rule(operations=operations)
    def start(self, operations: int) -> None:
        self.them.advance(self.them.start(), operations)

    @precondition(lambda self: self.them.all)
    @rule(n=which, operations=operations)
    def progress(self, n: int, operations: int) -> None:
        self.them.advance(self._chosen(n), operations)

    @precondition(lambda self: self.them.all)
    @rule(turns=st.lists(st.tuples(which, st.integers(1, 30)), min_size=5, max_size=40))
    def compete(self, turns: list[tuple[int, int]]) -> None:
        """They go on in turns, as on hosts that differ in speed."""
        for n, operations in turns:
            going = [each for each in self.them.all if not each.is_frozen]
            if going:
                self.them.advance(going[n % len(going)], operations)

    @precondition(lambda self: self.them.all)
    @rule(n=which)
    def kill(self, n: int) -> None:
        """It dies without a word."""
        self.them.kill(self._chosen(n))

    @precondition(lambda self: self.them.all)
    @rule(n=which)
    def interrupt(self, n: int) -> None:
        """It is told to end, which it does when it goes on."""
        self._chosen(n).send(signal.SIGTERM)

    @precondition(lambda self: self.them.all)
    @rule(n=which)
    def freeze_or_wake(self, n: int) -> None:
        claimant = self._chosen(n)
        claimant.is_frozen = not claimant.is_frozen

    @rule(seconds=st.sampled_from([1.0, LEASE / 2, 2 * LEASE]))
    def pass_time(self, seconds: float) -> None:
        self.them.pass_time(seconds)

    def _chosen(self, n: int) -> Claimant:
        return self.them.all[n % len(self.them.all)]

    # --- the batch system's and the user's side ---------------------------------------------------

    @precondition(lambda self: self.world.cluster.tasks)
    @rule(n=which)
    def requeue(self, n: int) -> None:
        """A task is started again, whose first process may live on."""
        task = self.world.cluster.tasks[n % len(self.world.cluster.tasks)]
        if task.state.state != "queued":
            task.state, task.restarts = TaskState("queued", "REQUEUED"), task.restarts + 1

    @rule()
    def resume(self) -> None:
        self.world.run(self.world.resume)

    # --- what must be true ------------------------------------------------------------------------

    def teardown(self) -> None:
        """Who lives comes to its end; where all that could be done is done, nothing is missing."""
        try:
            for claimant in self.them.all:
                claimant.is_frozen = False
            self.them.finish()
            failed = any("failed" in name for name in self.world.seen)  # a shard that was set aside
            resumed = len(self.world.cluster.ids) > 1  # whose workers may be for some shards only
            if not failed and not resumed and self.them.somebody_knew:
                require_answer(self.world)
            self.world.run(self.world.resume)
            while self.world.cluster.queued():
                self.them.start()
            self.them.start()  # for all shards
            self.them.finish()
            require_answer(self.world)
        finally:
            self.stack.close()


TestClaimsInAnyOrder = pytest.mark.timeout(1200)(ClaimsInAnyOrder.TestCase)
TestClaimsInAnyOrder.settings = settings(
    max_examples=1000 if LONG else 12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[*HealthCheck],
)
