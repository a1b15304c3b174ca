"""The cluster itself: what the other tests of this folder stand on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.slurm_cluster import SlurmCluster, SlurmError


def _wait_for_files(cluster: SlurmCluster, *files: Path) -> None:
    cluster.wait_until(lambda: all(file.exists() for file in files), f"no {files}")


def test_commands_find_the_cluster_by_the_environment(slurm: SlurmCluster) -> None:
    shown = subprocess.run(
        ["scontrol", "show", "config"], capture_output=True, text=True, check=True
    ).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in values.items()}
    assert values["ClusterName"] == slurm.name
    assert values["MaxArraySize"] == "1001"
    assert values["SLURM_CONF"] == os.environ["SLURM_CONF"] == str(slurm.conf)


def test_an_array_runs_every_task(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = 'echo "$SLURM_JOB_PARTITION" > "$SLURM_ARRAY_TASK_ID.out"'
    slurm.run("sbatch", "--array=0-19%8", f"--chdir={tmp_path}", "--output=log", "--wrap", script)
    slurm.wait_until_idle()
    assert {path.name for path in tmp_path.glob("*.out")} == {f"{n}.out" for n in range(20)}
    assert (tmp_path / "19.out").read_text() == "main\n"


def test_an_array_beyond_the_limit_is_refused(slurm: SlurmCluster) -> None:
    with pytest.raises(SlurmError, match="Invalid job array specification"):
        slurm.run("sbatch", "--array=0-1001", "--wrap", "true")
    assert slurm.jobs() == []


def test_the_short_partition_has_a_limit(slurm: SlurmCluster) -> None:
    limit = slurm.run("sinfo", "--noheader", "--partition=short", "--format=%l").stdout
    assert limit.strip() == "5:00"


def test_a_requeued_job_runs_again(slurm: SlurmCluster, tmp_path: Path) -> None:
    script = 'touch "start.${SLURM_RESTART_COUNT:-0}"; sleep 60'
    made = slurm.run(
        "sbatch", "--parsable", f"--chdir={tmp_path}", "--output=log", "--requeue", "--wrap", script
    )
    job = made.stdout.strip()
    _wait_for_files(slurm, tmp_path / "start.0")
    slurm.run("scontrol", "requeue", job)
    _wait_for_files(slurm, tmp_path / "start.1")


def test_reset_leaves_no_job_however_stubborn(slurm: SlurmCluster, tmp_path: Path) -> None:
    ignore = "trap '' TERM; touch started; while :; do sleep 0.1; done"
    slurm.run("sbatch", f"--chdir={tmp_path}", "--output=log", "--wrap", ignore)
    slurm.run("sbatch", "--hold", "--array=0-9", "--output=/dev/null", "--wrap", "true")
    _wait_for_files(slurm, tmp_path / "started")
    slurm.run("scontrol", "update", "NodeName=node1", "State=DRAIN", "Reason=test")
    slurm.reset()
    assert slurm.jobs() == []
    slurm.run("sbatch", f"--chdir={tmp_path}", "--output=log", "--wrap", "touch after")
    _wait_for_files(slurm, tmp_path / "after")


@pytest.mark.usefixtures("slurm_packages")
@pytest.mark.slurm
def test_stop_leaves_no_process(tmp_path_factory: pytest.TempPathFactory, short_tmp: Path) -> None:
    work = tmp_path_factory.mktemp("work")
    options = {"MaxArraySize": 11, "KillWait": None}
    with SlurmCluster(short_tmp / "cluster", nodes=2, cpus=4, config=options) as cluster:
        assert cluster.run("sinfo", "-h", "-o", "%D %c").stdout.split() == ["2", "4"]
        with pytest.raises(SlurmError, match="Invalid job array specification"):
            cluster.run("sbatch", "--array=0-11", "--wrap", "true")
        # A job that ignores signals, and one whose child leaves its session and outlives it.
        stubborn = "trap '' TERM; touch stubborn; while :; do sleep 0.1; done"
        escaping = "setsid sleep 1000 & touch escaped"
        for script in (stubborn, escaping):
            cluster.run("sbatch", "--export=NONE", f"--chdir={work}", "-o", "log", "--wrap", script)
        _wait_for_files(cluster, work / "stubborn", work / "escaped")
        before = cluster.processes()
        assert len(before) > len(["munged", "slurmctld", "slurmd.node1", "slurmd.node2"])
    assert [process for process in before if process.alive()] == []
    assert cluster.processes() == []


@pytest.mark.usefixtures("slurm_packages")
@pytest.mark.slurm
def test_another_process_can_stop_it(short_tmp: Path) -> None:
    first = SlurmCluster(short_tmp / "cluster").start()
    other = SlurmCluster(first.root)
    with pytest.raises(SlurmError, match="runs in"):
        other.start()
    assert len(other.processes()) >= 3
    other.stop()
    assert first.processes() == []
    first.stop()
