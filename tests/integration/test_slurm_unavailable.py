"""A scheduler that does not answer, or says no: nothing is invented, nothing is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from espnet3.errors import SchedulerUnavailable, SubmissionRefused
from espnet3.run import Run, submit_run
from tests.support.helpers import (
    causes,
    ended,
    files_of,
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
from tests.support.runners import GATE, MENDED, SomeRefused, Workshop
from tests.support.slurm_cluster import SlurmCluster


def _without(folder: Path, *missing: str) -> str:
    """A PATH on which every command is but some of Slurm's."""
    folder.mkdir()
    for entry in os.get_exec_path():
        for command in Path(entry).iterdir() if Path(entry).is_dir() else ():
            link = folder / command.name
            if command.name not in missing and not link.exists():
                link.symlink_to(command)
    assert shutil.which("squeue") is not None
    assert all(shutil.which(name, path=str(folder)) is None for name in missing)
    return str(folder)


@pytest.fixture
def half_way(slurm: SlurmCluster, tmp_path: Path) -> Run:
    """A run with a shard that is done, one that runs, and one that is queued."""
    config = parallel(n_workers=1, n_shards=3)
    run = submit_noting(tmp_path, 6, config, gated=[3])
    wait_for(lambda: noted(tmp_path, "begun")[3], "rank 1 does not run")
    assert states(run) == {0: "done", 1: "running", 2: "queued"}
    return run


@pytest.mark.parametrize("how", ["dead controller", "no squeue"])
def test_status_without_the_scheduler(
    slurm: SlurmCluster, half_way: Run, tmp_path: Path, how: str
) -> None:
    run = half_way
    with pytest.MonkeyPatch.context() as patch:
        if how == "dead controller":
            # The same cluster on a port where nobody listens.
            dead = slurm.root / "dead.conf"
            text = slurm.conf.read_text()
            lines = [line for line in text.splitlines() if not line.startswith("SlurmctldPort=")]
            dead.write_text("\n".join([*lines, "SlurmctldPort=1", "MessageTimeout=2"]) + "\n")
            patch.setenv("SLURM_CONF", str(dead))
        else:
            patch.setenv("PATH", _without(tmp_path / "bin", "squeue"))
        seen = run.status()
        assert seen.scheduler_problem is not None
        expected = "Unable to contact slurm controller" if how == "dead controller" else "squeue is"
        assert expected in seen.scheduler_problem
        assert [shard.state for shard in seen.shards] == ["done", "running", "queued"]
        assert all("the scheduler does not answer" in shard.cause for shard in seen.shards[1:])
        before = files_of(run.run_dir)
        with pytest.raises(SchedulerUnavailable, match="cannot be told which shards still run"):
            run.resume()
        assert files_of(run.run_dir) == before
    seen = run.status()
    assert seen.scheduler_problem is None
    assert [shard.state for shard in seen.shards] == ["done", "running", "queued"]
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))


def test_force_goes_on_without_an_answer(half_way: Run, tmp_path: Path) -> None:
    """Only sbatch answers; two copies of each live shard run, and each gets one receipt."""
    run = half_way
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _without(tmp_path / "bin", "squeue"))
        again = run.resume(force=True)
        assert again.ranks == [1, 2]
    (tmp_path / GATE).touch()
    wait_for(lambda: run.status().done, "the run is not done")
    assert run.collect() == locally(tmp_path, 6)
    assert len(jobs(run, 2).jobs) == 1


def test_what_ended_may_have_been_requeued_meanwhile(slurm: SlurmCluster, tmp_path: Path) -> None:
    """A shard that failed by its record is not a better known than one that runs by its record."""
    run = submit_noting(tmp_path, 4, parallel(n_shards=2), failing=[3])
    ended(run)
    (tmp_path / MENDED).touch()
    words = "slurm_load_jobs error: Socket timed out on send/recv operation"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", wrap(tmp_path, "squeue", f"echo '{words}' >&2; exit 1"))
        assert states(run) == {0: "done", 1: "failed"}
        before = files_of(run.run_dir)
        with pytest.raises(SchedulerUnavailable, match=words):
            run.resume()
        assert files_of(run.run_dir) == before
        assert run.resume(force=True).ranks == [1]
    ended(run)
    assert run.collect() == locally(tmp_path, 4)


def test_a_finished_run_needs_no_scheduler(slurm: SlurmCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, parallel(n_shards=1))
    ended(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _without(tmp_path / "bin", "squeue", "sacct", "scontrol", "sbatch"))
        assert run.status().done
        assert run.status().scheduler_problem is None
        assert run.collect() == locally(tmp_path, 2)


@pytest.mark.parametrize("missing", ["sbatch", "scontrol"])
def test_a_host_that_cannot_submit(slurm: SlurmCluster, tmp_path: Path, missing: str) -> None:
    before = slurm.jobs("--states=all")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _without(tmp_path / "bin", missing))
        with pytest.raises(SchedulerUnavailable, match=f"{missing} is not on this host's PATH"):
            submit_noting(tmp_path, 2, parallel(n_shards=1))
    assert {path.name for path in tmp_path.iterdir()} == {"bin"}
    assert slurm.jobs("--states=all") == before


def test_a_refused_submission_can_be_mended(slurm: SlurmCluster, tmp_path: Path) -> None:
    before = slurm.jobs("--states=all")
    config = parallel(n_shards=2, options={"queue": "no-such-partition"})
    with pytest.raises(SubmissionRefused) as refused:
        submit_noting(tmp_path, 4, config)
    assert "invalid partition specified: no-such-partition" in refused.value.words
    assert "invalid partition specified: no-such-partition" in str(refused.value)
    assert slurm.jobs("--states=all") == before
    run = Run(tmp_path / "run")
    assert states(run) == {0: "pending", 1: "pending"}
    assert "invalid partition specified: no-such-partition" in causes(run)[0]
    with pytest.raises(SubmissionRefused):  # its options are still those
        run.resume()
    run.resume(options={"queue": "main"})
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


def test_a_submission_refused_half_way_keeps_what_was_accepted(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    provider = Workshop({"folder": str(tmp_path), "gated": [0, 1]})
    config = parallel(n_workers=2, n_shards=4, job_array=False)
    runner = SomeRefused(provider)
    with pytest.raises(SubmissionRefused, match="no-such-partition"):
        submit_run(runner, range(4), run_dir=tmp_path / "run", parallel=config)
    run = Run(tmp_path / "run")
    accepted = [job.job_id for job in jobs(run).jobs]
    assert accepted == sorted(job.id for job in slurm.jobs())
    assert len(accepted) == 2
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1]), "the accepted jobs do not run")
    assert states(run) == {0: "running", 1: "running", 2: "pending", 3: "pending"}
    assert "no-such-partition" in causes(run)[3]
    # What runs is left alone; the rest of it fits without the dependency that is refused.
    again = run.resume()
    assert again.ranks == [2, 3]
    assert {*again.left_alone} == {0, 1}
    (tmp_path / GATE).touch()
    ended(run)
    assert run.collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))
