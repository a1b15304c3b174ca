"""Shards that fail, are stopped or are killed: what is kept, what is said, and how it ends."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from espnet3.errors import IncompleteRun
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    jobs,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    receipt,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED
from tests.support.slurm_cluster import SlurmCluster


def test_two_of_forty_shards_fail(slurm: SlurmCluster, tmp_path: Path) -> None:
    # Five items each: rank 3 has 15 to 19, rank 17 has 85 to 89.
    run = submit_noting(tmp_path, 200, parallel(n_shards=40), failing=[17, 87])
    ended(run)
    seen = run.status()
    assert seen.counts() == {"done": 38, "failed": 2}
    told = {s.rank: s.cause for s in seen.shards if s.state == "failed"}
    assert told == {
        3: "forward failed at item 17: ValueError: item 17 is bad, very very very bad",
        17: "forward failed at item 87: ValueError: item 87 is bad, very very very bad",
    }
    with pytest.raises(IncompleteRun, match=r"2 of 40 .* 3 failed: .*item 17.* 17 failed: ") as no:
        run.collect()
    assert no.value.ranks == [3, 17]
    [failed] = attempts(run, 3, "failed")
    assert (failed.item, failed.items_done) == (17, 2)
    assert failed.error is not None
    assert "runners.py" in failed.error.traceback
    assert noted(tmp_path, "begun") == once({*range(200)} - {18, 19, 88, 89})

    (tmp_path / MENDED).touch()
    again = run.resume()
    assert again.ranks == [3, 17]
    assert {*again.left_alone} == {*range(40)} - {3, 17}
    [job] = jobs(run, 2).jobs
    queued = slurm.jobs("--states=all", f"--jobs={job.job_id}")
    assert len(queued) == 2
    ended(run)
    assert run.collect() == locally(tmp_path, 200)
    # Nothing that was finished is begun again; what failed is.
    assert noted(tmp_path, "finished") == once(range(200))
    assert noted(tmp_path, "begun") == once([*range(200), 17, 87])
    assert [receipt(run, rank).salvaged for rank in (3, 4, 17)] == [2, 0, 2]


def test_cancelling_one_task_and_then_the_run(slurm: SlurmCluster, tmp_path: Path) -> None:
    # Four items each; three shards run at a time, and each stops at its third item.
    config = parallel(n_workers=3, n_shards=5)
    run = submit_noting(tmp_path, 20, config, gated=[2, 6, 10, 14, 18])
    wait_for(lambda: noted(tmp_path, "begun") >= once([2, 6, 10]), "three shards do not run")
    assert set(states(run).values()) == {"running", "queued"}
    [job] = jobs(run).jobs
    slurm.run("scancel", f"{job.job_id}_1")
    wait_for(lambda: states(run)[1] == "interrupted", "rank 1 is not interrupted")
    wait_for(lambda: states(run)[3] == "running", "rank 3 does not take the place of rank 1")
    wait_for(lambda: noted(tmp_path, "begun")[14], "rank 3 does not reach its third item")
    assert states(run) == {0: "running", 1: "interrupted", 2: "running", 3: "running", 4: "queued"}
    assert causes(run)[1] == "cancelled, signal SIGTERM, 2 items done"

    assert run.cancel() == [job.job_id]
    ended(run)
    assert set(states(run).values()) == {"interrupted"}
    told = causes(run)
    assert [told[rank] for rank in (0, 1, 2, 3)] == ["cancelled, signal SIGTERM, 2 items done"] * 4
    assert told[4].startswith("cancelled")
    assert noted(tmp_path, "finished") == once([0, 1, 4, 5, 8, 9, 12, 13])
    assert slurm.jobs() == []
    assert run.cancel() == []
    with pytest.raises(IncompleteRun) as no:
        run.collect()
    assert no.value.ranks == [0, 1, 2, 3, 4]

    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1, 2, 3, 4]
    ended(run)
    assert run.collect() == locally(tmp_path, 20)
    assert noted(tmp_path, "finished") == once(range(20))
    assert noted(tmp_path, "begun") == once([*range(20), 2, 6, 10, 14])


def test_a_requeued_task_goes_on(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 8, parallel(n_shards=2), gated=[2])
    wait_for(lambda: noted(tmp_path, "begun")[2], "rank 0 does not run")
    [job] = jobs(run).jobs
    slurm.run("scontrol", "requeue", f"{job.job_id}_0")

    def started_again() -> bool:
        # At no moment does it look as if nothing would come of it: a resume would double it.
        assert states(run)[0] in ("running", "queued"), causes(run)
        return len(attempts(run, 0, "started")) == 2

    wait_for(started_again, "the task does not start again")
    assert len(attempts(run, 0, "interrupted")) == 1
    assert states(run)[0] == "running"
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 8)
    # One receipt, in two parts; both attempts are of the one submission and job.
    assert receipt(run, 0).salvaged == 2
    assert len(receipt(run, 0).parts) == 2
    assert {record.job_id for record in attempts(run, 0)} == {f"{job.job_id}_0"}
    assert noted(tmp_path, "finished") == once(range(8))
    assert noted(tmp_path, "begun") == once([*range(8), 2])


@pytest.mark.parametrize(
    ("number", "state", "words"),
    [
        (signal.SIGKILL, "interrupted", "killed by SIGKILL, often for want of memory, "),
        (signal.SIGSEGV, "lost", "crashed by SIGSEGV, "),
    ],
)
def test_a_worker_that_dies_without_a_word(
    slurm: SlurmCluster, tmp_path: Path, number: int, state: str, words: str
) -> None:
    config = parallel(n_shards=2, checkpoint_every=0.05)
    run = submit_noting(tmp_path, 8, config, gated=[3])
    wait_for(lambda: noted(tmp_path, "begun")[3], "rank 0 does not run")
    wait_for(lambda: lines_kept(run, 0) == 3, "no checkpoint was made")
    [started] = attempts(run, 0, "started")
    os.kill(started.pid, number)
    ended(run)
    assert states(run) == {0: state, 1: "done"}
    silent = f"attempt {started.attempt} on {started.host} ended without a word"
    [job] = jobs(run).jobs
    [shown] = slurm.jobs("--states=FAILED", f"--jobs={job.job_id}")
    assert shown.reason == "JobLaunchFailure"  # which nobody would understand
    assert causes(run)[0] == f"{words}{silent}, job {shown.id}"

    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0]
    ended(run)
    assert run.collect() == locally(tmp_path, 8)
    assert receipt(run, 0).salvaged == 3
    assert noted(tmp_path, "finished") == once(range(8))
    assert noted(tmp_path, "begun") == once([*range(8), 3])
    assert submission(run, 2).ranks_of(0) == [0]
