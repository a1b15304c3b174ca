"""A worker of the dynamic schedule: it claims one shard after the other until none is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.salvage import list_results
from espnet3.schedulers.base import Scheduler
from espnet3.specs import layout
from espnet3.specs.layout import ResultFile
from espnet3.specs.models import RunSpec, Submission
from espnet3.worker import exit_codes
from espnet3.worker.attempt import BEGAN, Attempt, SchedulerTask, log_failure
from espnet3.worker.claiming import Claims
from espnet3.worker.computing import NO_LIMITS, Limits, Work
from espnet3.worker.early_end import EarlyEnd
from espnet3.worker.environment import build_environment
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.removal_watch import RemovalWatch
from espnet3.worker.schedule import fits
from espnet3.worker.shard import Stretch, compute_shard
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.terms import Taken, Terms
from espnet3.worker.usage import Meter

log = logging.getLogger("espnet3.worker")
MARGIN = 60.0  # seconds of a job for its prologue, and for its end, at most
_PART = 0.1  # of a short one
FAST = 60.0  # seconds in which a shard fails that its host, too, may be the reason of
_MOST_FAST = 2  # such shards of a worker that has done none
_STEP = 0.5  # seconds after which a worker that waits looks for signals


class Bounds(NamedTuple):
    """When a worker stops claiming.

    Attributes:
        until: by the monotonic clock; None where its time has no end.
        most_shards: how many it may claim; None for any number.
    """

    until: float | None = None
    most_shards: int | None = None


UNBOUNDED = Bounds()


class Outcome(NamedTuple):
    """What a worker came to.

    Attributes:
        code: an exit code of `espnet3.worker.exit_codes`.
        worker: its name.
        shards_done: how many shards, or parts of some, it has finished.
        items_done: how many items it has computed.
    """

    code: int
    worker: str
    shards_done: int
    items_done: int


def time_limit(submission: Submission, scheduler: Scheduler) -> float | None:
    """When this job's time is up, by the monotonic clock; None where that is not known."""
    walltime = scheduler.walltime_seconds(submission.options.get("walltime"))
    return None if walltime is None else BEGAN + walltime - min(MARGIN, _PART * walltime)


def run_claimed(
    directory: RunDirectory,
    run: RunSpec,
    ranks: Sequence[int],
    submission_number: int,
    place: SchedulerTask,
    *,
    terms: Terms,
    n_places: int,
    limits: Limits = NO_LIMITS,
    bounds: Bounds = UNBOUNDED,
    early_end: EarlyEnd | None = None,
    asks_gpus: bool = True,
) -> Outcome:
    """Claim shards and compute them, until there is nothing left for this worker.

    Args:
        directory: the run directory.
        run: its run.json.
        ranks: the shards that may be claimed; those with a receipt are passed over.
        submission_number: of the submission that the worker belongs to.
        place: its task and job.
        terms: how shards are claimed.
        n_places: how many workers the submission has.
        limits: what the submission says of recorded errors.
        bounds: when to stop claiming.
        early_end: ends the submission where nothing can succeed; None where somebody watches it.
        asks_gpus: whether GPUs are asked how busy they are.
    """
    for folder in (layout.RECEIPTS, layout.RESULTS, layout.CLAIMS):
        directory.store.refresh(folder)
    heartbeat = Heartbeat(directory, submission_number, this_process(), place, terms.heartbeat)
    spare, meter = Spare(), Meter(asks_gpus=asks_gpus)

    def attempt(rank: int, generation: int) -> Attempt:
        return Attempt(directory, run, rank, submission_number, place, generation, spare, meter)

    claims = Claims(
        directory, run, ranks, submission_number, heartbeat, attempt, terms, place.task or 0,
        n_places,
    )  # fmt: skip
    with Signals() as signals, RemovalWatch(directory, run.run_id, terms.heartbeat), meter:
        code = exit_codes.INTERRUPTED
        again = submission_number > 1 or place.task is None  # who joins may come after others
        worker = _Worker(directory, run, claims, heartbeat, signals, bounds, again)
        try:
            with heartbeat:
                code = worker.build_and_compute(place, limits, early_end, meter)
        except Interrupted:
            pass
        finally:
            spare.give_back()
    return Outcome(code, heartbeat.worker, heartbeat.shards_done, heartbeat.items_done)


class _Worker:
    def __init__(
        self,
        directory: RunDirectory,
        run: RunSpec,
        claims: Claims,
        heartbeat: Heartbeat,
        signals: Signals,
        bounds: Bounds,
        may_have_predecessors: bool,
    ) -> None:
        self._directory, self._run, self._claims = directory, run, claims
        self._heartbeat, self._signals, self._bounds = heartbeat, signals, bounds
        self._again = may_have_predecessors
        self._earlier: Mapping[int, Sequence[ResultFile]] | None = None
        self._spent, self._items = 0.0, 0
        self._failed_fast: set[int] = set()

    def build_and_compute(
        self, place: SchedulerTask, limits: Limits, early_end: EarlyEnd | None, meter: Meter
    ) -> int:
        directory, run, signals = self._directory, self._run, self._signals
        try:
            runner, env = build_environment(run, signals, meter, place.task or 0)
        except Exception as raised:  # noqa: BLE001 (a shortage of memory, say)
            return self.fail(raised, early_end)
        forward = runner.forward
        work = Work(directory, run, forward, env, signals, place, limits, early_end, runner)
        return self.compute_all(work)

    def compute_all(self, work: Work) -> int:
        code, n_shards = exit_codes.DONE, 0
        most, early_end = self._bounds.most_shards, work.early_end
        while most is None or n_shards < most:
            self._signals.check()
            if early_end is not None and early_end.is_cancelled():
                break
            if not self._has_time():
                log.info("no further shard: it would not end before this worker's time is up")
                break
            taken = self._claims.next(self._wait)
            if taken is None:
                log.info("nothing is left to claim")
                break
            n_shards += 1
            if not self._compute(work, taken):
                code = exit_codes.FAILED
                self._claims.set_aside(taken.claim.rank)  # also where no record could be written
                if early_end is not None and (early_end.look() or self._is_bad_place()):
                    break
        return code

    def _is_bad_place(self) -> bool:
        """Whether all that this worker has begun failed fast: it would eat what others could do."""
        if self._heartbeat.shards_done or len(self._failed_fast) < _MOST_FAST:
            return False
        log.error(
            "%d shards failed within %g s each on %s, and this worker has done none: it claims no "
            "more", len(self._failed_fast), FAST, self._heartbeat.process.host,
        )  # fmt: skip
        return True

    def _compute(self, work: Work, taken: Taken) -> bool:
        began = time.monotonic()
        rank = taken.claim.rank
        self._directory.require_files([layout.shard(rank)])
        stretch = Stretch(taken.claim, taken.end)
        self._heartbeat.begin(stretch, taken.claims, self._run.n_items_of(rank))
        done = False
        try:
            done = compute_shard(work, taken.attempt, self._results_of(taken), stretch)
            return done
        finally:
            self._heartbeat.end(done=done)
            seconds = time.monotonic() - began
            if not done and seconds < FAST:
                self._failed_fast.add(rank)
            self._spent += seconds
            self._items += 1

    def fail(self, raised: Exception, early_end: EarlyEnd | None) -> int:
        """Without an environment one shard is claimed, whose record says why it failed."""
        why = log_failure(raised)
        taken = self._claims.next(self._wait)
        if taken is not None:
            taken.attempt.record("failed", **why)
            if early_end is not None:
                early_end.look()
        return exit_codes.FAILED

    def _results_of(self, taken: Taken) -> Sequence[ResultFile]:
        """Result files of earlier attempts at a shard; none where there cannot be any."""
        rank = taken.claim.rank
        if taken.is_further:  # whose first attempts may have begun a moment ago
            return list_results(self._directory.store).get(rank, [])
        if not self._again and taken.claim.generation == 1:
            return []
        if self._earlier is None:
            self._earlier = list_results(self._directory.store)
        return self._earlier.get(rank, [])

    def _has_time(self) -> bool:
        until = self._bounds.until
        if until is None:
            return True
        expected = self._spent / self._items if self._items else None
        return fits(until - time.monotonic(), expected)

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._signals.check()
            time.sleep(min(_STEP, left))
