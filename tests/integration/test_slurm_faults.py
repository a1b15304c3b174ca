"""What becomes of jobs and of their cluster: `status` tells it, `resume` finishes, nothing is lost.

The jobs of this module have a cluster of their own, whose nodes go down and whose controller stops.
Killed workers, requeues and single cancelled tasks are in test_slurm_failures.py, the time limit is
in test_slurm_limits.py.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.collect.vouching import PartialResults
from espnet3.errors import SchedulerUnavailable, SubmissionRefused
from espnet3.run import Run, submit_run
from tests.support import slurm_memory
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
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED, Noting, Workshop, note
from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_fixtures import talking_to
from tests.support.slurm_memory import LIMITS_MEMORY, MEMORY_GROUPS

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(slurm_packages: None) -> Iterator[SlurmCluster]:
    """A cluster of two nodes whose clients do not wait long for a dead controller."""
    config = {"MessageTimeout": 2}
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, SlurmCluster(folder, nodes=2, config=config) as started:
        yield started


@pytest.fixture(autouse=True)
def _environment(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with talking_to(cluster, monkeypatch):
        yield


def _directives(*directives: str, **options: Any) -> Any:
    """A parallel config with directives for sbatch."""
    return {"job_extra_directives": list(directives), **options}


def _gated(folder: Path, **keys: Any) -> Run:
    """A run of two shards, done but for the third item of the first: it waits, two are kept."""
    config = parallel(n_shards=2, checkpoint_every=0.05, **keys)
    run = submit_noting(folder, 8, config, gated=[2])
    wait_for(lambda: noted(folder, "begun")[2], "rank 0 does not run")
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    wait_for(lambda: states(run)[1] == "done", "rank 1 is not done")
    return run


def _finishes(run: Run, folder: Path, ranks: list[int], again: list[int]) -> None:
    """Resume a run that `_gated` made; only `again` is begun twice, and nothing is finished so."""
    (folder / GATE).touch()
    assert run.resume().ranks == ranks
    ended(run)
    assert run.collect() == locally(folder, 8)
    assert noted(folder, "finished") == once(range(8))
    assert noted(folder, "begun") == once([*range(8), *again])
    assert receipt(run, 0).salvaged == 2


def _told(run: Run, expected: dict[int, str]) -> None:
    """Wait until these are the causes."""
    wait_for(lambda: causes(run) == expected, f"the causes are not {expected}")


def _node_of(cluster: SlurmCluster, run: Run) -> str:
    """The node that the first task runs on."""
    [job] = jobs(run).jobs
    return cluster.run(
        "squeue", "--noheader", "--format=%N", f"--jobs={job.job_id}_0"
    ).stdout.strip()


# --- jobs that are stopped ------------------------------------------------------------------------


def test_signals_from_the_scheduler_leave_durable_results(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    sent = [("USR1", "--batch"), ("TERM", "--batch"), ("USR1", "--full"), ("TERM", "--full")]
    config = parallel(n_shards=5)  # with the usual checkpoints: the signal is what makes it durable
    run = submit_noting(tmp_path, 20, config, gated=[2, 6, 10, 14])
    wait_for(lambda: noted(tmp_path, "begun") >= once([2, 6, 10, 14]), "not all shards run")
    [job] = jobs(run).jobs
    for task, (name, whom) in enumerate(sent):
        cluster.run("scancel", f"--signal={name}", whom, f"{job.job_id}_{task}")
    ended(run)
    assert states(run) == {0: "interrupted", 1: "interrupted", 2: "interrupted",
                           3: "interrupted", 4: "done"}  # fmt: skip
    told = causes(run)
    for rank, (name, _) in enumerate(sent):
        assert told[rank] == f"signal SIG{name}, 2 items done"
        assert lines_kept(run, rank) == 2
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1, 2, 3]
    ended(run)
    assert run.collect() == locally(tmp_path, 20)
    assert noted(tmp_path, "finished") == once(range(20))
    assert noted(tmp_path, "begun") == once([*range(20), 2, 6, 10, 14])


def test_scancel_of_all(cluster: SlurmCluster, tmp_path: Path) -> None:
    config = parallel(n_workers=1, n_shards=2, checkpoint_every=0.05)
    run = submit_noting(tmp_path, 8, config, gated=[2])
    wait_for(lambda: noted(tmp_path, "begun")[2], "rank 0 does not run")
    [job] = jobs(run).jobs
    assert causes(run)[1] == (
        f"job {job.job_id}_1, as many tasks of its array run as may at a time (JobArrayTaskLimit)"
    )
    cluster.run("scancel", job.job_id)
    ended(run)
    wait_for(lambda: cluster.jobs() == [], "the job does not end")
    assert states(run) == {0: "interrupted", 1: "interrupted"}
    assert causes(run) == {
        0: "cancelled, signal SIGTERM, 2 items done",
        1: f"cancelled, job {job.job_id}_1",
    }
    _finishes(run, tmp_path, [0, 1], [2])


@pytest.mark.skipif(
    not LIMITS_MEMORY, reason=f"Slurm cannot limit memory: {MEMORY_GROUPS} cannot be written"
)
def test_out_of_memory(
    limiting: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(limiting.conf))
    config = parallel(n_shards=2, checkpoint_every=0.05, options={"memory": "300MB"})
    provider = Workshop({"folder": str(tmp_path), "gated": [2]})
    run = submit_run(Hungry(provider), range(8), run_dir=tmp_path / "run", parallel=config)
    ended(run)
    assert states(run) == {0: "interrupted", 1: "done"}
    [job] = jobs(run).jobs
    assert causes(run)[0] == f"out of memory, job {job.job_id}_0"
    assert run.status().shards[0].kind == "memory"
    assert lines_kept(run, 0) == 2
    assert run.resume(options={"memory": "2GB"}).ranks == [0]
    ended(run)
    assert run.collect() == locally(tmp_path, 8)
    assert noted(tmp_path, "finished") == once(range(8))
    assert noted(tmp_path, "begun") == once([*range(8), 2])


@pytest.fixture
def limiting(slurm_packages: None, short_tmp: Path) -> Iterator[SlurmCluster]:
    """A cluster that limits the memory of its jobs."""
    with slurm_memory.limiting(short_tmp) as started:
        yield started


class Hungry(Noting):
    """Takes memory for the items that are gated, until a limit ends it or a gigabyte is reached."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        note(env["folder"], "begun", idx)
        if idx in env["gated"]:
            results = env["folder"] / "run" / "results"
            wait_for(
                lambda: sum(f.read_bytes().count(b"\n") for f in results.glob("000000.*")) >= 2,
                "no checkpoint was made",
            )
            taken = [b"x" * 2**24 for _ in range(64)]
            assert len(taken) == 64
        note(env["folder"], "finished", idx)
        return {"item": idx, "square": idx * idx, "text": f"„{idx}“\n"}


# --- nodes ----------------------------------------------------------------------------------------


def test_a_node_goes_down(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = _gated(tmp_path, options=_directives("--no-requeue"))
    cluster.run(
        "scontrol", "update", f"NodeName={_node_of(cluster, run)}", "State=DOWN", "Reason=test"
    )
    ended(run)
    assert states(run)[0] == "interrupted"
    assert causes(run)[0].startswith("node failed, ")
    assert run.status().shards[0].kind == "node"
    print(causes(run))
    _finishes(run, tmp_path, [0], [2])


def test_a_job_is_requeued_when_its_node_goes_down(cluster: SlurmCluster, tmp_path: Path) -> None:
    run = _gated(tmp_path)
    [job] = jobs(run).jobs
    down = _node_of(cluster, run)
    cluster.run("scontrol", "update", f"NodeName={down}", "State=DOWN", "Reason=test")
    requeued = f"job {job.job_id}_0, waits for its start time, as after a requeue (BeginTime)"
    wait_for(lambda: causes(run)[0] == requeued, "the task is not requeued")
    assert states(run)[0] == "queued"
    assert run.resume().ranks == []
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 8)
    assert len(attempts(run, 0, "started")) == 2
    assert noted(tmp_path, "finished") == once(range(8))
    assert noted(tmp_path, "begun") == once([*range(8), 2])


# --- jobs that never start ------------------------------------------------------------------------


def test_a_held_job(cluster: SlurmCluster, tmp_path: Path) -> None:
    config = parallel(n_shards=1, options=_directives("--hold"))
    run = submit_noting(tmp_path, 8, config)
    [job] = jobs(run).jobs
    held = "held, `scontrol release` lets it start (JobHeldUser)"
    _told(run, {0: f"job {job.job_id}, {held}"})
    assert states(run) == {0: "queued"}
    assert run.resume().ranks == []
    cluster.run("scontrol", "release", job.job_id)
    ended(run)
    assert run.collect() == locally(tmp_path, 8)


def test_jobs_that_can_never_start_say_so(cluster: SlurmCluster, tmp_path: Path) -> None:
    failed = cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", "--wrap=false"
    ).stdout.strip()
    wait_for(lambda: cluster.jobs(f"--jobs={failed}", "--states=FAILED"), "the job does not fail")
    impossible = {
        "never starts, since the job that it waits for failed (DependencyNeverSatisfied)":
            _directives(f"--dependency=afterok:{failed}"),
        "its walltime is beyond the partition's limit, so it never starts (PartitionTimeLimit)":
            _directives(queue="short", walltime="01:00:00"),
        "the partition has no node for its options, so it never starts (PartitionConfig)":
            {"cores": 999},
    }  # fmt: skip
    runs = []
    for number, (words, options) in enumerate(impossible.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        runs.append(
            (submit_noting(folder, 8, parallel(n_shards=1, options=options)), folder, words)
        )
    for run, _, words in runs:
        [job] = jobs(run).jobs
        _told(run, {0: f"job {job.job_id}, {words}"})
        assert states(run) == {0: "queued"}
        run.cancel()
        ended(run)
        assert states(run) == {0: "interrupted"}
        assert causes(run)[0].startswith(f"cancelled, job {job.job_id}")
        mended = {"job_extra_directives": [], "queue": "main", "walltime": "00:10:00", "cores": 1}
        assert run.resume(options=mended).ranks == [0]

    # Here Slurm accepts the job, and gives it up when it looks for a node.
    (tmp_path / "given-up").mkdir()
    nowhere = _directives("--exclude=node1,node2")
    run = submit_noting(tmp_path / "given-up", 8, parallel(n_shards=1, options=nowhere))
    ended(run)
    assert causes(run)[0].endswith("FAILED no node can satisfy its options (BadConstraints)")
    assert run.resume(options=mended).ranks == [0]
    runs.append((run, tmp_path / "given-up", ""))
    for run, folder, _ in runs:
        ended(run)
        assert run.collect() == locally(folder, 8)
        assert noted(folder, "begun") == once(range(8))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"walltime": "2h"}, "sbatch: error: Invalid --time specification"),
        (_directives("--constraint=gold"), "Invalid feature specification"),
    ],
)
def test_what_slurm_refuses_at_once_is_one_line(
    cluster: SlurmCluster, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(SubmissionRefused) as refused:
        submit_noting(tmp_path, 2, parallel(n_shards=1, options=options))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    [cause] = causes(Run(tmp_path / "run")).values()
    assert cause.startswith("refused by the scheduler, ")
    assert words in cause
    assert "\n" not in cause


# --- a controller that stops, and forgets ---------------------------------------------------------


def test_the_controller_stops_while_jobs_run(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Jobs finish without it; what failed meanwhile is resumed when it is back."""
    config = parallel(n_workers=3, n_shards=3)
    run = submit_noting(tmp_path, 12, config, gated=[2, 6], failing=[7])
    wait_for(lambda: noted(tmp_path, "begun") >= once([2, 6]), "two shards do not run")
    wait_for(lambda: states(run)[2] == "done", "rank 2 is not done")
    cluster.stop_controller()
    try:
        seen = run.status()
        assert seen.scheduler_problem is not None
        assert "Unable to contact slurm controller" in seen.scheduler_problem
        assert "\n" not in seen.scheduler_problem
        assert [shard.state for shard in seen.shards] == ["running", "running", "done"]
        assert all("the scheduler does not answer" in shard.cause for shard in seen.shards[:2])
        (tmp_path / GATE).touch()
        receipts = Path(run.run_dir, "receipts")
        wait_for(lambda: attempts(run, 1, "failed"), "rank 1 does not end")
        wait_for(lambda: (receipts / "000000.json").exists(), "rank 0 does not end")
        assert states(run) == {0: "done", 1: "failed", 2: "done"}
        assert "item 7 is bad" in causes(run)[1]
        with pytest.warns(PartialResults):
            assert len(run.collect(partial=True)) == 11
        with pytest.raises(SchedulerUnavailable, match="cannot be told which shards still run"):
            run.resume()
    finally:
        cluster.start_controller()
    (tmp_path / MENDED).touch()
    assert run.resume().ranks == [1]
    wait_for(lambda: run.status().done, "rank 1 does not finish")
    assert run.collect() == locally(tmp_path, 12)
    assert noted(tmp_path, "finished") == once(range(12))
    assert noted(tmp_path, "begun") == once([*range(12), 7])


def test_jobs_that_the_queue_has_forgotten(
    short_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without accounting, a job is gone from all memory MinJobAge seconds after its end."""
    with SlurmCluster(short_tmp, config={"MinJobAge": 2}) as forgetful:
        monkeypatch.setenv("SLURM_CONF", str(forgetful.conf))
        config = parallel(n_workers=4, n_shards=5, checkpoint_every=0.05)
        run = submit_noting(tmp_path, 20, config, gated=[2, 6, 10], failing=[14])
        wait_for(lambda: noted(tmp_path, "begun") >= once([2, 6, 10]), "not all shards run")
        wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
        [job] = jobs(run).jobs
        forgetful.run("scancel", f"{job.job_id}_1")
        [started] = attempts(run, 0, "started")
        os.kill(started.pid, signal.SIGKILL)
        wait_for(lambda: states(run)[1] == "interrupted", "rank 1 is not interrupted")
        (tmp_path / GATE).touch()
        ended(run)
        wait_for(lambda: forgetful.jobs("--states=all") == [], "the queue remembers")
        assert states(run) == {0: "lost", 1: "interrupted", 2: "done", 3: "failed", 4: "done"}
        told = causes(run)
        assert told[0].endswith(f"ended without a word, job {job.job_id}_0")
        assert told[1] == "signal SIGTERM, 2 items done"
        (tmp_path / MENDED).touch()
        assert run.resume().ranks == [0, 1, 3]
        ended(run)
        assert run.status().counts() == {"done": 5}
        assert run.collect() == locally(tmp_path, 20)
        assert noted(tmp_path, "finished") == once(range(20))
        assert noted(tmp_path, "begun") == once([*range(20), 2, 6, 14])
