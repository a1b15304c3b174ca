"""The driver is killed at any step of a submission; the run completes all the same."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import espnet3
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_user
from espnet3.schedulers import get_scheduler
from espnet3.status.observation import observe
from tests.chaos.dying_driver import N_ITEMS, N_SHARDS
from tests.support.helpers import LONG, wait_for
from tests.support.slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
EXPECTED = [item * item for item in range(N_ITEMS)]


class Drivers:
    """Drivers that share their imports: each is forked where they are done.

    Args:
        environ: variables that they have beside those of this process.
    """

    def __init__(self, **environ: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.dying_driver"],
            cwd=ROOT,
            env={**os.environ, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Drivers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate(timeout=60)

    def drive(self, env: str, *points: tuple[Path, int, str]) -> list[tuple[int, str]]:
        """Drive the runs in folders at the same time, each to the point at which it is killed.

        Returns:
            For each the exit code, and what it printed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        arguments = [
            [str(folder / "run"), env, str(step), when, str(folder / "counts")]
            for folder, step, when in points
        ]
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        return [(code, said) for code, said in json.loads(self._process.stdout.readline())]


def go_on(drivers: Drivers, folder: Path, env: str) -> None:
    """What a user does after the crash: `resume`, or the same call where there is no run yet."""
    if (folder / "run" / "run.json").exists():
        espnet3.Run(folder / "run").resume()
    else:
        [(code, _)] = drivers.drive(env, (folder, 0, "never"))
        assert code == 0


def check(folder: Path) -> None:
    """The run is whole, no item was computed twice, and no job is unknown."""
    run = espnet3.Run(folder / "run")
    state = run.wait(timeout=90, interval=0.2)
    assert state.done, state.unfinished()
    assert run.collect(patience=0) == EXPECTED
    computed = Counter((folder / "counts").read_text().split())
    assert computed == Counter(str(item) for item in range(N_ITEMS))
    seen = asyncio.run(observe(RunDirectory.open(folder / "run")))
    assert set(RunDirectory.open(folder / "run").receipts(N_SHARDS).done) == set(range(N_SHARDS))
    assert all(entry.recorded is not None or not entry.job_ids() for entry in seen.submissions)


def crash_everywhere(drivers: Drivers, tmp_path: Path, env: str) -> None:
    """Kill a driver before and after its operations; all the runs complete.

    At each of them with ESPNET3_LONG_TESTS=1; `test_crash_points.py` simulates all.
    """
    [(code, printed)] = drivers.drive(env, (_folder(tmp_path, "whole"), 0, "never"))
    assert code == 0
    folders = []
    for step in range(1, int(printed) + 1, 1 if LONG else 3):
        points = [(_folder(tmp_path, f"{step}-{when}"), step, when) for when in ("before", "after")]
        ended = drivers.drive(env, *points)
        assert [code for code, _ in ended] == [-signal.SIGKILL] * 2, step
        folders += [folder for folder, _, _ in points]
    assert len(folders) > 10
    for folder in folders:
        go_on(drivers, folder, env)
    for folder in folders:
        check(folder)


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_local_driver_killed_at_store_operations(tmp_path: Path) -> None:
    with Drivers() as drivers:
        crash_everywhere(drivers, tmp_path, "local")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_slurm_driver_killed_at_store_operations(slurm: SlurmCluster, tmp_path: Path) -> None:
    with Drivers() as drivers:
        crash_everywhere(drivers, tmp_path, "slurm")


@pytest.mark.parametrize("when", ["before", "after"])
def test_slurm_driver_killed_around_sbatch(slurm: SlurmCluster, tmp_path: Path, when: str) -> None:
    # A wrapper that kills its parent, the driver, and passes everything on to the real sbatch.
    real = shutil.which("sbatch")
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    submit = f'"{real}" "$@"'
    kill = "kill -KILL $PPID"
    steps = {"before": f"{kill}\nexit 1", "after": f"{submit}\n{kill}"}
    wrapper.write_text(f"#!/bin/sh\n{steps[when]}\n")
    wrapper.chmod(0o755)
    folder = _folder(tmp_path, "run of " + when)
    path = f"{wrapper.parent}:{os.environ['PATH']}"
    with Drivers(PATH=path) as drivers:
        [(code, _)] = drivers.drive("slurm", (folder, 0, "never"))
    assert code == -signal.SIGKILL

    # The wrapper outlives the driver by a moment, in which its job may still be accepted.
    run = espnet3.Run(folder / "run")
    told = ("being submitted", "does not answer")
    wait_for(
        lambda: not any(word in shard.cause for shard in run.status().shards for word in told),
        "the wrapper goes on",
    )
    # Asked by name, as a status does until the job has done all.
    [(submission, _)] = RunDirectory.open(folder / "run").submissions().known
    known = asyncio.run(get_scheduler("slurm").find(submission.jobs, this_user()))
    assert len(known) == (1 if when == "after" else 0)
    submitted = espnet3.Run(folder / "run").resume()
    # What was accepted before the crash is found by its name and not queued a second time.
    assert submitted.ranks == ([] if when == "after" else list(range(N_SHARDS)))
    check(folder)
