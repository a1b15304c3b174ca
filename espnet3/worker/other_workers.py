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
from espnet3.worker.schedule import Signs


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

    def why_gone(self, claim: Claim) -> str | None:
        """Why a claim's worker is believed to be gone; None where it may be alive."""
        worker, moment = claim.worker, time.monotonic()
        if worker == self._heartbeat.worker:
            return "this worker left it"
        if is_alive(claim.process) is False:
            return f"process {claim.process.pid} has ended"
        place = self._heartbeat.place
        if place.job_id is not None and (claim.task, claim.job_id) == place:
            return "its job was started again"
        with contextlib.suppress(EspnetError):  # not there yet, or not to be read
            self.states[worker] = self._directory.read(WorkerState, layout.worker(worker))
        state = self.states.get(worker)
        self.signs.see(worker, -1 if state is None else state.beat, moment)
        if state is not None and state.ended:
            return "its worker has ended"
        if self.signs.is_stale(worker, moment):
            host, lease = claim.process.host, self.signs.lease
            return f"worker {worker} on {host} has given no sign of life for {lease:g} s"
        return None

    def place_of_death(self, claim: Claim) -> int | None:
        """How far a worker said that it was at its shard; None where it did not."""
        try:
            state = self._directory.read(WorkerState, layout.worker(claim.worker))
        except EspnetError:
            return None
        same = (state.rank, state.claim) == (claim.rank, claim.number)
        return state.position if same else None
