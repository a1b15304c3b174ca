"""Workers that claim their shards, on a real Slurm: requeued, cancelled one by one, killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from tests.support.helpers import (
    ended,
    jobs,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm


def _shared(folder: Path, **keys: Any) -> Run:
    """Two workers, four shards of four items; one of the workers waits at item 2."""
    shared: dict[str, Any] = {"schedule": "dynamic", "lease": 6.0, "heartbeat": 0.5}
    config = parallel(n_workers=2, n_shards=4, checkpoint_every=0.05, **shared, **keys)
    run = submit_noting(folder, 16, config, gated=[2])
    wait_for(lambda: noted(folder, "begun")[2], "rank 0 does not run")
    wait_for(lambda: lines_kept(run, 0) >= 2, "no checkpoint was made")
    return run


def _task_of_the_first_shard(slurm: SlurmCluster, run: Run) -> str:
    [job] = jobs(run).jobs
    task = run.status().shards[0].task
    assert task is not None
    return f"{job.job_id}_{task}"


def test_a_requeued_worker_takes_its_shard_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = _shared(tmp_path)
    slurm.run("scontrol", "requeue", _task_of_the_first_shard(slurm, run))
    (tmp_path / GATE).touch()
    ended(run, 200)
    assert states(run) == dict.fromkeys(range(4), "done")
    assert run.collect() == locally(tmp_path, 16)
    assert noted(tmp_path, "begun")[0] == noted(tmp_path, "begun")[1] == 1
    assert noted(tmp_path, "finished") >= once(range(16))


def test_what_a_cancelled_worker_left_is_done_by_the_others(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    run = _shared(tmp_path)
    slurm.run("scancel", _task_of_the_first_shard(slurm, run))
    (tmp_path / GATE).touch()
    ended(run, 200)
    if not run.status().done:  # the others had ended before it was cancelled
        assert run.resume().ranks == [0]
        ended(run, 200)
    assert run.collect() == locally(tmp_path, 16)
    assert noted(tmp_path, "begun")[0] == noted(tmp_path, "begun")[1] == 1


def test_cancel_ends_all_that_claim(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = _shared(tmp_path)
    run.cancel()
    wait_for(lambda: slurm.jobs() == [], "a job does not end")
    ended(run)
    (tmp_path / GATE).touch()
    ranks = [rank for rank, state in states(run).items() if state != "done"]
    assert 0 in ranks
    assert run.resume().ranks == ranks
    ended(run, 200)
    assert run.collect() == locally(tmp_path, 16)
    assert noted(tmp_path, "begun")[0] == 1
