"""The signs of life of a worker that claims shards, and what it sees of others on that occasion."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from types import TracebackType
from typing import Self

from espnet3.errors import EspnetError, FileMissing
from espnet3.run_dir.claims import read_claims
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.regions import end_of
from espnet3.specs import layout
from espnet3.specs.models import Claim, ProcessIdentity, WorkerState, now
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.memory import peak_memory
from espnet3.worker.schedule import SHORTEST_PAUSE, nearest_cut, pace_of, pause_before_next_sign
from espnet3.worker.shard import Stretch

log = logging.getLogger("espnet3.worker")


class Heartbeat:
    """Says that this worker lives, and looks whether somebody shares its shard by now.

    A thread does both while it is entered: at least every `interval` seconds, more often while a
    shard is young or nearly done. Trouble of the storage is passed over: a sign is a hint.

    Attributes:
        worker: this worker's name.
        process: its process.
        place: its task and job.
        interval: seconds between two signs at most.
        shards_done: how many shards it has finished.
    """

    def __init__(
        self,
        directory: RunDirectory,
        submission_number: int,
        process: ProcessIdentity,
        place: SchedulerTask,
        interval: float,
    ) -> None:
        self.worker, self.process = layout.new_attempt(submission_number), process
        self.shards_done = 0
        self.place = place
        self._directory, self._number = directory, submission_number
        self.interval, self._started = interval, now()
        self._beat, self._items_before = 0, 0
        self._stretch: Stretch | None = None
        self._claims: list[Claim] = []
        self._n_items, self._begun, self._looked = 0, 0.0, -math.inf
        self._lock = threading.Lock()
        self._again = threading.Event()
        self._closing = threading.Event()
        self._told = False
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)

    def __enter__(self) -> Self:
        self.beat()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._again.set()
        self._thread.join()
        self.beat(ended=True)

    @property
    def items_done(self) -> int:
        """How many items this worker has computed."""
        return self._items_before + (0 if self._stretch is None else self._stretch.computed)

    def begin(self, stretch: Stretch, claims: list[Claim], n_items: int) -> None:
        """This worker is at a part of a shard from now on.

        Args:
            stretch: the part, whose end the thread may bring nearer.
            claims: of the shard, as far as they are known; at least up to the worker's own.
            n_items: of the whole shard.
        """
        with self._lock:
            self._stretch, self._claims, self._n_items = stretch, [*claims], n_items
            self._begun = time.monotonic()
            stretch.look = self._look_before_an_item
        self._again.set()

    def end(self, *, done: bool) -> None:
        """It is not any more."""
        with self._lock:
            if self._stretch is not None:
                self._items_before += self._stretch.computed
            self._stretch = None
            self.shards_done += done

    def beat(self, *, ended: bool = False) -> None:
        """Look for a newer claim of the shard, and give a sign."""
        try:
            self._look()
            with self._lock:
                state = self._state(ended)
            self._directory.renew(state)
        except FileMissing:  # the run is gone, which shows when something is written that matters
            return
        except Exception as error:  # noqa: BLE001 (a sign is a hint, whatever keeps it back)
            if not self._told:
                log.warning("no sign of life can be given: %s", error)
            self._told = True

    def _look(self) -> None:
        with self._lock:
            stretch, known, n_items = self._stretch, self._claims, self._n_items
        if stretch is None:
            return
        own, moment = stretch.claim, time.monotonic()
        try:  # without the lock: the storage may take long, and the worker goes on
            claims = read_claims(self._directory, own.rank, own.generation, known)
        except EspnetError:
            return
        end = end_of(n_items, claims, own)
        with self._lock:  # the worker and its thread may both be here
            self._looked = moment
            if stretch is self._stretch and len(claims) > len(self._claims):
                self._claims = claims
            if end < stretch.end:
                log.info("shard %d: another worker takes it from item %d on", own.rank, end)
                stretch.end = end

    def _look_before_an_item(self) -> None:
        """The worker's own look, so that it begins nothing that somebody has taken."""
        if time.monotonic() - self._looked >= SHORTEST_PAUSE / 2:
            self._look()

    def _state(self, ended: bool) -> WorkerState:
        self._beat += 1
        stretch, at = self._stretch, {}
        if stretch is not None:
            stretch.looks_from = nearest_cut(stretch.position, stretch.end)
            begun = self._begun if stretch.begun is None else stretch.begun
            at = {
                "rank": stretch.claim.rank,
                "claim": stretch.claim.number,
                "position": min(stretch.position, stretch.end),
                "end": stretch.end,
                "computed": stretch.computed,
                "seconds": round(time.monotonic() - begun, 3),
            }
        return WorkerState(
            worker=self.worker,
            beat=self._beat,
            process=self.process,
            task=self.place.task,
            job_id=self.place.job_id,
            started=self._started,
            time=now(),
            shards_done=self.shards_done,
            items_done=self.items_done,
            peak_memory=peak_memory() if self._beat > 1 else None,  # the first delays the start
            ended=ended,
            **at,  # type: ignore[arg-type]
        )

    def _pause(self) -> float:
        stretch = self._stretch
        if stretch is None:
            return self.interval
        elapsed = time.monotonic() - self._begun
        left = None
        if stretch.computed and stretch.begun is not None:
            pace = pace_of(stretch.computed, time.monotonic() - stretch.begun)
            left = (stretch.end - stretch.position) / pace if pace else None
        return pause_before_next_sign(elapsed, left, self.interval)

    def _keep_beating(self) -> None:
        looked = time.monotonic()
        while not self._closing.is_set():
            if self._again.wait(self._pause()):  # a shard has been begun: its first items first
                self._again.clear()
                self._closing.wait(SHORTEST_PAUSE / 10)
            if self._closing.is_set():
                return
            self.beat()
            if time.monotonic() - looked >= self.interval:
                looked = time.monotonic()
                self._end_where_cancelled()

    def _end_where_cancelled(self) -> None:
        """End as by a signal where somebody has cancelled the run and cannot reach this process."""
        try:
            cancelled = self._directory.store.exists(layout.cancellation(self._number))
        except EspnetError:
            return
        if cancelled:
            log.warning("the run was cancelled")
            os.kill(os.getpid(), signal.SIGTERM)
