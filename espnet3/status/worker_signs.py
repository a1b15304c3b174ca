"""The last signs of life of a run's workers, as they gave them.

No clock of this host's is held against them: when a sign was given is told by the worker's own.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import NamedTuple

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import WorkerState
from espnet3.storage.concurrency import gather

_READERS = 8  # threads


class WorkerSign(NamedTuple):
    """What a worker said last of itself.

    Attributes:
        worker: its name.
        host: where it runs, or ran.
        pid: its process there.
        submission: number of the submission that it belongs to.
        task: its task there; None for one that joined (`espnet3 work`).
        job_id: the scheduler's id of its job, where it has one.
        started: time of its first sign, by its own clock.
        last_sign: time of this one, by its own clock.
        shards_done: how many shards, or parts of some, it has finished.
        items_done: how many items it has computed.
        items_per_second: at the shard that it is at; None where it has finished no item of it.
        shard: the shard that it is at; None for none.
        position: of the item in that shard up to which it has come; None as `shard`.
        end: up to where in that shard it goes; None as `shard`.
        ended: whether it said that no other sign will come.
    """

    worker: str
    host: str
    pid: int
    submission: int
    task: int | None
    job_id: str | None
    started: datetime
    last_sign: datetime
    shards_done: int
    items_done: int
    items_per_second: float | None
    shard: int | None
    position: int | None
    end: int | None
    ended: bool

    @property
    def place(self) -> str:
        """Where it is from, as in `0001/3` for a task, or `0001/joined`."""
        return f"{self.submission:04d}/{'joined' if self.task is None else self.task}"


def worker_signs(run_dir: str | os.PathLike[str]) -> list[WorkerSign]:
    """The workers of a run that left a sign of life: those that claim shards.

    They are ordered by submission and task, and those that joined come last. Files that cannot be
    read are left out.

    Args:
        run_dir: the run directory.

    Raises:
        StoreError: the folder cannot be listed.
    """
    directory = RunDirectory.open(run_dir)
    names = filter(None, map(layout.parse_worker, directory.store.names(layout.WORKERS)))

    def read(name: str) -> WorkerState | None:
        try:
            return directory.read(WorkerState, layout.worker(name))
        except EspnetError:  # a hint only
            return None

    found = [_sign(state) for state in gather(read, list(names), _READERS) if state is not None]
    return sorted(found, key=_order)


def _order(sign: WorkerSign) -> tuple[int, bool, int, datetime, str]:
    joined = sign.task is None
    return sign.submission, joined, sign.task or 0, sign.started, sign.worker


def _sign(state: WorkerState) -> WorkerSign:
    pace = state.computed / state.seconds if state.computed and state.seconds else None
    there = state.rank is not None
    return WorkerSign(
        worker=state.worker,
        host=state.process.host,
        pid=state.process.pid,
        submission=layout.submission_of(state.worker),
        task=state.task,
        job_id=state.job_id,
        started=state.started.astimezone(UTC),
        last_sign=state.time.astimezone(UTC),
        shards_done=state.shards_done,
        items_done=state.items_done,
        items_per_second=pace,
        shard=state.rank,
        position=state.position if there else None,
        end=state.end if there else None,
        ended=state.ended,
    )
