"""The command with a real Slurm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli_project import Project
from tests.support.slurm_cluster import SlurmCluster

OPTIONS = {"cores": 1, "memory": "100MB", "walltime": "00:10:00"}


@pytest.fixture
def espnet3(slurm: SlurmCluster, tmp_path: Path) -> Project:
    return Project(tmp_path, "slurm", OPTIONS, preflight=True)


def test_submit_watch_collect(espnet3: Project, slurm: SlurmCluster) -> None:
    before = espnet3.files()
    dry = espnet3.lines("submit", espnet3.config, "--dry-run", "parallel.job_array=false")
    assert dry[0] == "# job 1 of 4: the command"
    assert dry[1].startswith("sbatch ")
    assert "#!/usr/bin/env bash" in dry
    assert dry[-1].startswith("# and 3 more jobs like it")
    [job] = espnet3.json("submit", espnet3.config, "--dry-run")["jobs"]
    assert "#SBATCH -t 00:10:00" in job["script"]
    assert espnet3.files() == before
    assert not slurm.jobs()

    # By YAML 1.1 this is the number 43200, which Slurm would take for minutes.
    submitted = espnet3.json("submit", espnet3.config, "parallel.options.walltime=12:00:00")
    assert (submitted["submission"], submitted["ranks"]) == (1, [0, 1, 2, 3])
    [job_id] = submitted["job_ids"]
    assert "TimeLimit=12:00:00" in slurm.run("scontrol", "show", "job", job_id).stdout
    assert espnet3.watch()[-1] == "4 of 4 shards done"
    assert espnet3.json("status", espnet3.run_dir)["counts"] == {"done": 4}
    espnet3("collect", espnet3.run_dir, "-o", "out.jsonl")
    written = (espnet3.folder / "out.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == espnet3.expected()
    assert "item 9\n" in espnet3("logs", espnet3.run_dir, "3").stdout


def test_refused_cancelled_resumed(espnet3: Project, slurm: SlurmCluster) -> None:
    gated = "provider.params.gated=[0,3,6,9]"
    bad = espnet3("submit", espnet3.config, gated, "parallel.options.queue=nosuch", code=1)
    assert bad.stderr.count("espnet3: ") == 1
    assert "slurm refused the job: " in bad.stderr.splitlines()[-1]
    assert espnet3.lines("status", espnet3.run_dir, code=1)[0] == "0 of 4 shards done, 4 pending"

    submitted = espnet3.json("submit", espnet3.config, gated)
    assert submitted["submission"] == 2
    assert espnet3.json("status", espnet3.run_dir, code=1)["live"] is True
    assert espnet3.json("cancel", espnet3.run_dir)["cancelled"] == submitted["job_ids"]
    assert len(espnet3.watch(code=1)) >= 4
    states = {shard["state"] for shard in espnet3.json("status", espnet3.run_dir, code=1)["shards"]}
    assert states == {"interrupted"}

    (espnet3.folder / "open").touch()
    resumed = espnet3.json("resume", espnet3.run_dir, "--set", "walltime=24:00:00", "queue=null")
    assert resumed["ranks"] == [0, 1, 2, 3]
    espnet3.watch()
    assert len(espnet3.lines("collect", espnet3.run_dir)) == 12
