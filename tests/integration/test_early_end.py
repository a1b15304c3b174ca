"""A typo in `forward` ends a run that finishes itself soon after its third shard has failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from espnet3.specs import layout
from tests.support.helpers import (
    causes,
    ended,
    files_of,
    noted,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.slurm_cluster import SlurmCluster

WHY = "ValueError: item "
WHERE = ", in the first three shards that failed, and none is done"


def _stopped(run: Run, n_shards: int) -> None:
    """Nothing is done, and what was not begun says why."""
    told = causes(run)
    assert {*states(run).values()} <= {"failed", "interrupted"}
    never = [rank for rank, state in states(run).items() if state == "interrupted"]
    assert len(never) > n_shards / 2
    for rank in never:
        assert told[rank].startswith(f"cancelled, {WHY}"), told[rank]
        assert WHERE in told[rank]


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_on_this_host(tmp_path: Path, schedule: str) -> None:
    keys: dict[str, Any] = {"n_workers": 2, "n_shards": 40, "schedule": schedule, "finish": True}
    run = submit_noting(tmp_path, 40, parallel("local", **keys), failing=range(40))
    ended(run)
    wait_for(lambda: processes_of(run) == [], "a process does not end")
    assert layout.cancellation(1) in files_of(run.run_dir)
    assert 3 <= noted(tmp_path, "begun").total() <= 8  # two workers, a few at the same time
    _stopped(run, 40)


def test_one_shard_that_is_done_speaks_for_the_others(tmp_path: Path) -> None:
    config = parallel("local", n_workers=1, n_shards=8, finish=True)
    run = submit_noting(tmp_path, 8, config, failing=range(1, 8))
    ended(run)
    assert noted(tmp_path, "begun").total() == 8
    assert states(run) == {0: "done", **dict.fromkeys(range(1, 8), "failed")}


@pytest.mark.slurm
def test_an_array_of_slurm_s_is_gone_soon(slurm: SlurmCluster, tmp_path: Path) -> None:
    config = parallel(n_shards=400, n_workers=400, finish=True)
    run = submit_noting(tmp_path, 400, config, failing=range(400))
    assert len(slurm.jobs()) >= 1
    wait_for(lambda: layout.cancellation(1) in files_of(run.run_dir), "it is not stopped", 300)
    wait_for(lambda: slurm.jobs() == [], "the array does not end", 300)
    ended(run)
    assert noted(tmp_path, "begun").total() < 100
    _stopped(run, 400)
