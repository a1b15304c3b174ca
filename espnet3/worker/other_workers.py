"""Whether the other workers of a run live, as far as this one can tell."""

from __future__ import annotations

import contextlib
import time

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import is_alive
from espnet3.specs import layout
from espnet3.specs.models import Claim, WorkerState
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.schedule import SHORTEST_PAUSE, Signs, pace_of, pause_before_next_sign


class OtherWorkers:
    """What this worker knows of the others.

    Attributes:
        signs: their signs of life, by its own clock.
        states: what each of them said last.
    """

    def __init__(self, directory: RunDirectory, heartbeat: Heartbeat, lease: float) -> None:
        self._directory, self._heartbeat = directory, heartbeat
        self.signs = Signs(lease)
        self.states: dict[str, WorkerState] = {}
        self._interval = heartbeat.interval
        self._due: dict[str, float] = {}  # when another sign may be there
        self._looked: dict[str, float] = {}

    def is_at(self, claim: Claim) -> bool:
        """Whether a claim's worker says itself that it is at it, and gives signs of life.

        It is asked again when its next sign is due, not before.
        """
        if claim.worker == self._heartbeat.worker or is_alive(claim.process) is False:
            return False
        if self._is_same_task(claim):
            return False
        worker, moment = claim.worker, time.monotonic()
        state = self.states.get(worker)
        at = (claim.rank, claim.number)
        due = self._due.get(worker, moment)
        if state is not None and (state.rank, state.claim) != at:  # it goes from one to the next
            due = min(due, self._looked[worker] + SHORTEST_PAUSE)
        if state is None or moment >= due:
            state = self._look(worker, moment)
        if state is None or state.ended or self.signs.is_stale(worker, moment):
            return False
        return (state.rank, state.claim) == at

    def why_gone(self, claim: Claim) -> str | None:
        """Why a claim's worker is believed to be gone; None where it may be alive."""
        worker, moment = claim.worker, time.monotonic()
        if worker == self._heartbeat.worker:
            return "this worker left it"
        if is_alive(claim.process) is False:
            return f"process {claim.process.pid} has ended"
        if self._is_same_task(claim):
            return "its job was started again"
        state = self._look(worker, moment)
        if state is not None and state.ended:
            return "its worker has ended"
        if self.signs.is_stale(worker, moment):
            host, lease = claim.process.host, self.signs.lease
            return f"worker {worker} on {host} has given no sign of life for {lease:g} s"
        return None

    def _is_same_task(self, claim: Claim) -> bool:
        place = self._heartbeat.place
        return place.job_id is not None and (claim.task, claim.job_id) == place

    def _look(self, worker: str, moment: float) -> WorkerState | None:
        """What a worker said last, once in a moment."""
        if self._looked.get(worker) != moment:
            self._looked[worker] = moment
            with contextlib.suppress(EspnetError):  # not there yet, or not to be read
                self.states[worker] = self._directory.read(WorkerState, layout.worker(worker))
        state = self.states.get(worker)
        self.signs.see(worker, -1 if state is None else state.beat, moment)
        if state is not None:
            pace = pace_of(state.computed, state.seconds) if state.computed else None
            left = (state.end - state.position) / pace if pace else None
            pause = pause_before_next_sign(state.seconds, left, self._interval)
            self._due[worker] = moment + pause
        return state

    def place_of_death(self, claim: Claim) -> int | None:
        """How far a worker said that it was at its shard; None where it did not."""
        try:
            state = self._directory.read(WorkerState, layout.worker(claim.worker))
        except EspnetError:
            return None
        same = (state.rank, state.claim) == (claim.rank, claim.number)
        return state.position if same else None
