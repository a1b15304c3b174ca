"""Traps of a prologue run, and what Slurm sends to the batch script reaches the worker."""

from __future__ import annotations

from pathlib import Path

import pytest

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
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster


@pytest.mark.parametrize("shebang", ["#!/bin/bash", "#!/bin/sh"])
@pytest.mark.parametrize("sourced", [False, True])
def test_an_exit_trap(slurm: SlurmCluster, tmp_path: Path, shebang: str, sourced: bool) -> None:
    line = f"trap 'echo $? >>{tmp_path}/trapped' EXIT"
    (tmp_path / "traps.sh").write_text(f"{line}\n")
    options = {"shebang": shebang}
    lines = [f". {tmp_path}/traps.sh" if sourced else line]
    config = parallel(n_shards=1, options={**options, "job_script_prologue": lines})
    run = submit_noting(tmp_path, 4, config, failing=[2])
    ended(run)
    assert states(run) == {0: "failed"}
    [job] = jobs(run).jobs
    code = (tmp_path / "trapped").read_text().strip()
    shown = slurm.run("squeue", "-h", "--states=all", f"--jobs={job.job_id}", "-O", "exit_code")
    assert int(shown.stdout) >> 8 == int(code) == exit_codes.FAILED


@pytest.mark.parametrize("shebang", ["#!/bin/bash", "#!/bin/sh"])
@pytest.mark.parametrize("signal", ["--batch --signal=USR1", "--batch --signal=TERM", "--full"])
def test_signals_of_slurm(slurm: SlurmCluster, tmp_path: Path, shebang: str, signal: str) -> None:
    lines = [f"trap 'echo $? >>{tmp_path}/trapped' EXIT"]
    options = {"shebang": shebang, "job_script_prologue": lines}
    run = submit_noting(tmp_path, 4, parallel(n_shards=1, options=options), gated=[2])
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1, 2]), "it does not begin")
    [job] = jobs(run).jobs
    slurm.run("scancel", *signal.split(), job.job_id)
    ended(run)
    assert states(run) == {0: "interrupted"}
    assert "2 items done" in causes(run)[0]
    assert len(attempts(run, 0, "interrupted")) == 1
    wait_for((tmp_path / "trapped").exists, "the trap did not run")
    assert (tmp_path / "trapped").read_text() == f"{exit_codes.INTERRUPTED}\n"
    (tmp_path / GATE).touch()
    run.resume()
    assert ended(run).collect() == locally(tmp_path, 4)


def test_without_a_prologue_the_worker_takes_the_scripts_place(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    run = submit_noting(tmp_path, 1, parallel(n_shards=1))
    assert "espnet3_run" not in submission(run).script
    ended(run)
