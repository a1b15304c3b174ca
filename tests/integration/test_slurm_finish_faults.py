"""Finishers on a real Slurm: its controller stops, tasks come back, the run is removed.

The finisher's job begins with a prologue that waits for a file, so that a test knows when it looks.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.finish.finisher import Waits, finish
from espnet3.run import Run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import KnownFinisher, read_ending
from espnet3.specs import layout
from tests.support.ends import end_of, results_of
from tests.support.helpers import (
    attempts,
    jobs,
    locally,
    noted,
    once,
    parallel,
    python,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_fixtures import talking_to

pytestmark = pytest.mark.slurm
LOOKS = "look"  # the file for which the finisher waits


@pytest.fixture(scope="module")
def cluster(slurm_packages: None) -> Iterator[SlurmCluster]:
    """A cluster whose clients do not wait long for a dead controller."""
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, SlurmCluster(folder, config={"MessageTimeout": 2}) as started:
        yield started


@pytest.fixture(autouse=True)
def _environment(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with talking_to(cluster, monkeypatch):
        yield


def one_killed(folder: Path) -> Run:
    """A run of two shards whose second one is done, and whose first was killed at its third item.

    Its finisher has been started, and has not looked yet.
    """
    waits = f"until test -e {folder}/{LOOKS}; do sleep 0.1; done; export ESPNET3_PATIENCE=1"
    options = {"memory": "100MB", "job_script_prologue": [waits]}
    run = submit_noting(
        folder,
        8,
        parallel(n_shards=2, checkpoint_every=0.05, finish={"options": options}),
        gated=[2],
    )
    wait_for(lambda: noted(folder, "begun")[2], "rank 0 does not run")
    wait_for(lambda: states(run)[1] == "done", "rank 1 is not done")
    [started] = attempts(run, 0, "started")
    os.kill(started.pid, signal.SIGKILL)
    wait_for(lambda: _said(run) == "working", "no finisher starts")
    return run


def _said(run: Run) -> str | None:
    seen = run.status().finishing
    return None if seen is None else seen.state


def finishers_of(run: Run) -> list[KnownFinisher]:
    """The run's finishers, in order."""
    ending = read_ending(RunDirectory.open(run.run_dir))
    assert ending is not None
    return ending.finishers


def log_of(run: Run) -> str:
    """What its first finisher has said."""
    [known, *_] = finishers_of(run)
    log = known.finisher.job.log.replace("{index}", "0")
    return Path(known.finisher.log_directory, log).read_text()


def require_end(run: Run, folder: Path, number: int = 1) -> Any:
    """It comes to an end that has the results of local mode."""
    end = end_of(run, number)
    assert end["outcome"] == "done", end
    assert results_of(end) == locally(folder, 8)
    assert noted(folder, "finished") == once(range(8))
    return end


def test_the_controller_stops_while_the_finisher_works(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """It asks until somebody answers, and goes on."""
    run = one_killed(tmp_path)
    (tmp_path / GATE).touch()
    cluster.stop_controller()
    try:
        (tmp_path / LOOKS).touch()
        wait_for(lambda: "asked again" in log_of(run), "it does not miss the controller")
        assert not Path(run.run_dir, layout.WAVES).exists()
        assert not Path(run.run_dir, layout.finished(1)).exists()
    finally:
        cluster.start_controller()
    end = require_end(run, tmp_path)
    assert [wave["number"] for wave in end["waves"]] == [1]
    wait_for(lambda: not cluster.jobs(), "a job is left")


def test_a_controller_that_stays_away_is_named_at_the_end(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    """And `espnet3 finish` goes on when it is back."""
    run = one_killed(tmp_path)
    [known] = finishers_of(run)
    directory = RunDirectory.open(run.run_dir)
    cluster.stop_controller()
    try:
        waits = Waits(live=0, scheduler=0)
        ended = asyncio.run(finish(directory, directory.run(), known.finisher, waits))
    finally:
        cluster.start_controller()
    assert ended is not None
    assert ended.outcome == "stopped"
    assert ended.cause.startswith("nobody knows what still runs: slurm: "), ended.cause
    assert "Unable to contact slurm controller" in ended.cause
    (tmp_path / LOOKS).touch()
    (tmp_path / GATE).touch()
    wait_for(lambda: not cluster.jobs(), "a job is left")
    assert _said(run) == "stopped"
    done = python("-m", "espnet3", "finish", run.run_dir)
    assert done.returncode == 0, done.stderr
    require_end(run, tmp_path, 2)
    wait_for(lambda: not cluster.jobs(), "a job is left")


def test_a_task_that_comes_back_is_waited_for(cluster: SlurmCluster, tmp_path: Path) -> None:
    """Its shard is in no wave, since it is computed already."""
    run = one_killed(tmp_path)
    [job] = jobs(run).jobs
    cluster.run("scontrol", "requeue", f"{job.job_id}_0")
    wait_for(lambda: len(attempts(run, 0, "started")) == 2, "it does not come back")
    (tmp_path / LOOKS).touch()
    wait_for(lambda: "still live" in log_of(run), "it does not wait")
    assert not Path(run.run_dir, layout.WAVES).exists()
    (tmp_path / GATE).touch()
    end = require_end(run, tmp_path)
    assert (end["waves"], len(finishers_of(run))) == ([], 1)
    assert noted(tmp_path, "begun") == once([*range(8), 2])
    wait_for(lambda: not cluster.jobs(), "a job is left")


@pytest.mark.parametrize("when", ["before it looks", "while it waits for a task"])
def test_the_run_directory_is_removed(cluster: SlurmCluster, tmp_path: Path, when: str) -> None:
    """No wave, no other finisher, and an exit code that says that more tries make no sense."""
    run = one_killed(tmp_path)
    [known] = finishers_of(run)
    [job] = jobs(run).jobs
    if when != "before it looks":
        cluster.run("scontrol", "requeue", f"{job.job_id}_0")
        wait_for(lambda: len(attempts(run, 0, "started")) == 2, "it does not come back")
        (tmp_path / LOOKS).touch()
        wait_for(lambda: "still live" in log_of(run), "it does not wait")
    shutil.rmtree(run.run_dir)
    (tmp_path / LOOKS).touch()
    (tmp_path / GATE).touch()
    wait_for(lambda: not cluster.jobs(), "a job is left")
    shown = cluster.run("scontrol", "show", "job", str(known.job_id)).stdout
    assert "ExitCode=2:0" in shown, shown
    there = {each.id.partition("_")[0] for each in cluster.jobs("--states=all")}
    assert max(map(int, there)) == int(known.job_id or 0), "it has submitted something"
    assert not Path(run.run_dir, layout.SUBMISSIONS).exists()
