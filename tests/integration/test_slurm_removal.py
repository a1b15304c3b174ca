"""Runs on a real Slurm that are removed: by the command, and by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from espnet3.errors import RunDirectoryError
from tests.support.helpers import jobs, parallel, states, submit_noting, wait_for
from tests.support.slurm_cluster import SlurmCluster

HELD = {"job_extra_directives": ["--hold"]}


def test_what_is_queued_is_alive(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel(n_shards=2, options=HELD))
    with pytest.raises(RunDirectoryError, match="is alive: 2 shards queued; cancel it first"):
        run.remove()
    assert {*states(run).values()} == {"queued"}
    [job] = jobs(run).jobs
    assert run.remove(cancel=True).cancelled == [job.job_id]
    assert not Path(run.run_dir).exists()
    assert not slurm.run("squeue", "--noheader").stdout


@pytest.mark.parametrize("name", ["plain", "50% of ünï two"])
def test_cancel_finds_the_jobs_of_a_directory_that_is_gone(
    slurm: SlurmCluster, tmp_path: Path, name: str
) -> None:
    """By where their logs go; a job beside, and one that logs there under another name, stay."""
    folder, beside = tmp_path / name, tmp_path / f"{name} beside"
    folder.mkdir()
    beside.mkdir()
    run = submit_noting(folder, 4, parallel(n_shards=2, options=HELD))
    other = submit_noting(beside, 4, parallel(n_shards=2, options=HELD))
    logs = f"{run.run_dir}/logs".replace("%", "%%")
    slurm.run("sbatch", "--hold", f"--output={logs}/mine.log", "--job-name=mine", "--wrap=true")
    [job], [untouched] = jobs(run).jobs, jobs(other).jobs
    shutil.rmtree(run.run_dir)
    assert run.cancel() == [job.job_id]

    def queued() -> set[str]:
        return {*slurm.run("squeue", "--noheader", "--format=%j").stdout.split("\n")} - {""}

    wait_for(lambda: queued() == {"mine", untouched.name}, "the jobs are not what they should be")
    with pytest.raises(RunDirectoryError, match="does not exist, and no job is known to work"):
        run.cancel()
    other.cancel()
