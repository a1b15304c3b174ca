"""Ids and names of jobs: what a site's wrapper prints, what a user renames, what squeue shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet3.errors import SchedulerUnavailable, UsageError
from espnet3.run import Run
from espnet3.run_dir.directory import RunDirectory
from tests.support.helpers import (
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    states,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster

HOURS = '"$real" "$@"; code=$?; echo "Remaining node hours:"; echo "    {}"; exit $code'


@pytest.mark.parametrize("job_array", [True, False])
def test_a_number_that_a_wrapper_prints_is_no_id(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_array: bool
) -> None:
    """A cancel would end the job that has it."""
    held = ("--parsable", "--hold", "--output=/dev/null", "--wrap=true")
    another = slurm.run("sbatch", *held).stdout.strip()
    monkeypatch.setenv("PATH", wrap(tmp_path, "sbatch", HOURS.format(another)))
    config = parallel(n_shards=2, job_array=job_array)
    run = submit_noting(tmp_path, 4, config, gated=range(4))
    ids = [job.job_id for job in jobs(run).jobs]
    assert another not in ids
    shown = {job.id.partition("_")[0] for job in slurm.jobs()} - {another}
    assert set(ids) == shown
    wait_for(lambda: set(states(run).values()) == {"running"}, "they do not run")
    run.cancel()
    wait_for(lambda: len(slurm.jobs()) == 1, "the run is not cancelled")
    [left] = slurm.jobs()
    assert (left.id, left.state) == (another, "PENDING")


def test_several_ids_and_a_queue_that_does_not_answer(
    slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        wrap(tmp_path, "sbatch", HOURS.format(1200))
        patch.setenv("PATH", wrap(tmp_path, "squeue", "echo no >&2; exit 1"))
        said = r"several ids \(\d+, 1200\), nor can the queue be searched for Noting-[0-9a-f]{12}"
        with pytest.raises(SchedulerUnavailable, match=said):
            submit_noting(tmp_path, 4, parallel(n_shards=2))
    run = Run(tmp_path / "run")
    assert run.resume().ranks == []  # it is found by its name
    assert ended(run).collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


def test_a_job_that_its_user_renames_stays_the_runs(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel(n_shards=2, n_workers=1), gated=range(4))
    [job] = jobs(run).jobs
    wait_for(lambda: "running" in states(run).values(), "nothing runs")
    slurm.run("scontrol", "update", f"JobId={job.job_id}", "JobName=mine")
    assert {shown.name for shown in slurm.jobs()} == {"mine"}
    assert states(run) == {0: "running", 1: "queued"}
    assert run.resume().ranks == []
    with pytest.raises(UsageError, match=f"job {job.job_id}: under another name than the run gave"):
        run.cancel()  # whose it is, only the record says
    assert {shown.name for shown in slurm.jobs()} == {"mine"}
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


@pytest.mark.parametrize(
    ("options", "begin"), [({}, "Noting-"), ({"job_name": "decode dev"}, "decode dev-")]
)
def test_squeue_shows_whose_jobs_they_are(
    slurm: SlurmCluster, tmp_path: Path, options: dict[str, str], begin: str
) -> None:
    run = submit_noting(tmp_path, 2, parallel(n_shards=1, options=options), gated=range(2))
    short = slurm.run("squeue", "--noheader", "--format=%.8j").stdout  # as it shows by itself
    assert short.startswith(begin[:7])
    [job] = jobs(run).jobs
    assert job.name == f"{begin}{RunDirectory.open(run.run_dir).run().run_id}-0001-0"
    (tmp_path / GATE).touch()
    ended(run)
