"""A site's limits: the size of an array, how many tasks run at a time, and the time of a job.

The jobs of this module have a cluster of their own, so that one of them can come to its time limit
while others run: the last test looks at it.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.errors import SubmissionRefused
from espnet3.run import Run, submit_run
from espnet3.worker import exit_codes
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    jobs,
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
from tests.support.runners import GATE, Clock, Noting, Square, Workshop
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(slurm_packages: None) -> Iterator[SlurmCluster]:
    """A cluster with the usual MaxArraySize of 1001."""
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, SlurmCluster(folder, cpus=32) as started:
        yield started


@pytest.fixture(autouse=True)
def _environment(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module", autouse=True)
def limited(cluster: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A run whose first shard exceeds its walltime of a minute, for the last test of the module."""
    folder = tmp_path_factory.mktemp("limited")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in cluster.env.items():
            patch.setenv(name, value)
        # Its script has a trap, so the worker is not the batch script's own process.
        trap = f"trap 'echo $? >>{folder}/trapped' EXIT"
        options = {"walltime": "00:01:00", "job_script_prologue": [trap]}
        config = parallel(n_shards=2, options=options)
        return submit_noting(folder, 10, config, gated=[3]), folder


def _most_at_once(folder: Path) -> int:
    """The most processes that lived at one time, by the spans that they noted."""
    lines = (folder / "spans").read_text().splitlines()
    spans = [tuple(map(float, line.split())) for line in lines]
    events = sorted([(began, 1) for began, _ in spans] + [(end, -1) for _, end in spans])
    alive = most = 0
    for _, change in events:
        alive += change
        most = max(most, alive)
    return most


def _watch(cluster: SlurmCluster, run: Run, seconds: float) -> int:
    """Wait for the end of a run and return the most tasks that Slurm showed as running."""
    ids = ",".join(job.job_id for job in jobs(run).jobs)
    deadline, most = time.monotonic() + seconds, 0
    while shown := cluster.jobs(f"--jobs={ids}", "--states=PENDING,RUNNING,COMPLETING"):
        assert time.monotonic() < deadline, f"{len(shown)} jobs are left"
        most = max(most, sum(job.state == "RUNNING" for job in shown))
        time.sleep(0.1)
    return most


@pytest.mark.timeout(900)
@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("ESPNET3_LONG_TESTS") != "1",
    reason="1,500 processes take minutes; ESPNET3_LONG_TESTS=1 runs it",
)
def test_1500_tasks_are_two_arrays_that_share_the_workers(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    config = parallel(n_workers=16, n_shards=1500)
    runner = Square(Clock({"folder": str(tmp_path)}))
    run = submit_run(runner, range(3000), run_dir=tmp_path / "run", parallel=config)
    planned = submission(run).jobs
    assert [(j.first_task, j.n_tasks, j.throttle) for j in planned] == [(0, 750, 8), (750, 750, 8)]
    assert len({job.job_id for job in jobs(run).jobs}) == 2
    most = _watch(cluster, run, 850)
    assert run.status().counts() == {"done": 1500}
    assert run.collect() == [item * item for item in range(3000)]
    assert 12 <= most <= 16
    assert _most_at_once(tmp_path) <= 16


def test_a_small_site_gets_more_arrays(short_tmp: Path, tmp_path: Path) -> None:
    limits = {"MaxArraySize": 51}
    with SlurmCluster(short_tmp, config=limits) as small, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(small.conf))
        config = parallel(n_workers=13, n_shards=1500, shards_per_job=20)
        runner = Square(Clock({"folder": str(tmp_path)}))
        run = submit_run(runner, range(3000), run_dir=tmp_path / "run", parallel=config)
        # 75 tasks in arrays of at most 51; the throttle of both is 13.
        shapes = [(job.first_task, job.n_tasks, job.throttle) for job in submission(run).jobs]
        assert shapes == [(0, 37, 7), (37, 38, 6)]
        most = _watch(small, run, 100)
        assert run.status().counts() == {"done": 1500}
        assert run.collect() == [item * item for item in range(3000)]
        assert most == 13
        assert 1 < _most_at_once(tmp_path) <= 13
        # A user who claims more than the site allows hears it in Slurm's words.
        config["max_array_size"] = 100
        with pytest.raises(SubmissionRefused, match="Invalid job array specification"):
            submit_run(runner, range(3000), run_dir=tmp_path / "other", parallel=config)


def test_more_arrays_than_workers_wait_for_each_other(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    config = parallel(n_workers=2, n_shards=12, max_array_size=3)
    runner = Square(Clock({"folder": str(tmp_path)}))
    run = submit_run(runner, range(12), run_dir=tmp_path / "run", parallel=config)
    shapes = [(job.n_tasks, job.throttle, job.after) for job in submission(run).jobs]
    assert shapes == [(3, 1, None), (3, 1, None), (3, 1, 0), (3, 1, 1)]
    assert _watch(cluster, run, 60) == 2
    assert run.collect() == [item * item for item in range(12)]
    assert _most_at_once(tmp_path) <= 2


def test_one_job_per_task_is_throttled_by_dependencies(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    config = parallel(n_workers=3, n_shards=9, job_array=False)
    provider = Workshop({"folder": str(tmp_path), "gated": [0, 1, 2]})
    run = submit_run(Noting(provider), range(9), run_dir=tmp_path / "run", parallel=config)
    recorded = jobs(run).jobs
    assert len({job.job_id for job in recorded}) == 9
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1, 2]), "three jobs do not run")
    assert run.status().counts() == {"running": 3, "queued": 6}
    waiting = cluster.jobs("--states=PENDING", "--jobs=" + ",".join(j.job_id for j in recorded))
    assert {job.reason for job in waiting} == {"Dependency"}
    assert all("_" not in job.id for job in waiting)
    # A job that ends badly lets the next one start all the same.
    cluster.run("scancel", recorded[0].job_id)
    wait_for(lambda: noted(tmp_path, "begun")[3], "the job after a cancelled one does not start")
    (tmp_path / GATE).touch()
    ended(run)
    assert run.status().counts() == {"done": 8, "interrupted": 1}
    assert run.resume().ranks == [0]
    ended(run)
    assert run.collect() == locally(tmp_path, 9)
    assert {Path(log).name for log in run.logs(0)} == {"0001-0.0.log", "0002-0.0.log"}


def test_packing_builds_the_environment_once_per_process(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    run = submit_noting(tmp_path, 40, parallel(n_shards=20, shards_per_job=7))
    assert [(job.n_tasks, job.throttle) for job in submission(run).jobs] == [(3, None)]
    ended(run)
    assert run.collect() == locally(tmp_path, 40)
    built = noted(tmp_path, "built")
    assert built == once(built)  # by each process once
    assert len(built) == 3
    by_process = {rank: attempts(run, rank)[0].pid for rank in range(20)}
    assert len({by_process[rank] for rank in range(7)}) == 1
    assert set(by_process.values()) == set(built)


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_the_time_limit_interrupts_and_resume_finishes(
    cluster: SlurmCluster, limited: tuple[Run, Path]
) -> None:
    run, folder = limited
    ended(run, 150)
    assert states(run) == {0: "interrupted", 1: "done"}
    assert causes(run)[0] == "time limit, signal SIGTERM, 3 items done"
    # The worker's record was there before Slurm's own.
    [job] = jobs(run).jobs
    wait_for(lambda: cluster.jobs(f"--jobs={job.job_id}", "--states=TIMEOUT"), "no TIMEOUT")
    assert causes(run)[0] == "time limit, signal SIGTERM, 3 items done"
    [shown] = cluster.jobs(f"--jobs={job.job_id}", "--states=TIMEOUT")
    assert shown.id == f"{job.job_id}_0"
    [started] = attempts(run, 0, "started")
    [interrupted] = attempts(run, 0, "interrupted")
    assert interrupted.attempt == started.attempt
    assert interrupted.elapsed > 0
    assert (folder / "trapped").read_text().split() == ["0", str(exit_codes.INTERRUPTED)]
    assert noted(folder, "finished") == once({*range(10)} - {3, 4})

    (folder / GATE).touch()
    assert run.resume().ranks == [0]
    ended(run)
    assert run.collect() == locally(folder, 10)
    assert receipt(run, 0).salvaged == 3
    assert noted(folder, "finished") == once(range(10))
    assert noted(folder, "begun") == once([*range(10), 3])
