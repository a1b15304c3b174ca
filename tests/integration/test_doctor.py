"""`espnet3 doctor`: what it finds where all is well, and where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.config.model import ParallelConfig
from espnet3.doctor.diagnosis import Finding, judge_signs
from tests.support.cli_project import Project
from tests.support.slurm_cluster import SlurmCluster

OPTIONS = {"cores": 1, "memory": "100MB", "walltime": "00:10:00"}


def findings(project: Project, *words: str, code: int = 0) -> dict[str, str]:
    """Name -> value, of the findings that a pipe gets; the last one of a name."""
    lines = project.lines("doctor", *words, code=code)
    return dict(line.split("\t", 1) for line in lines)


def test_all_is_well_on_slurm(slurm: SlurmCluster, tmp_path: Path) -> None:
    project = Project(tmp_path, "slurm", OPTIONS)
    before = project.files()
    found = findings(project, project.config)
    assert found.pop("scheduler").startswith("slurm-wlm ")
    assert found.pop("array limit") == "1001 tasks"
    assert found.pop("job").isdigit()
    assert found.pop("began after").endswith(" s")
    assert found.pop("python there").startswith(f"{sys.executable}, 3.")
    assert found.pop("run directory").startswith("visible there after ")
    assert found.pop("new files").startswith("there and back in ")
    assert found.pop("signs of life").startswith("seen anew after ")
    assert found.pop("node") == os.uname().nodename
    assert found == {
        "packages there": "as here",
        "bytecode": "is kept there",
        "exclusive create": "works between the hosts",
        "submitting from a job": "possible, the scheduler answers there",
    }
    assert project.files() - before == {"a run"}  # as for a run beside the config's
    assert not slurm.jobs()


def test_all_is_well_here(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    seen = project.json("doctor")
    assert (seen["env"], seen["fine"], seen["left"]) == ("local", True, None)
    assert {found["name"] for found in seen["findings"]} >= {"python there", "exclusive create"}
    assert project.files() >= {"espnet3_runs"}
    assert not [*(project.folder / "espnet3_runs").iterdir()]


@pytest.mark.parametrize(
    ("after", "schedule", "fine"),
    [
        (0.4, "dynamic", True),
        (29.0, "dynamic", True),
        (31.0, "dynamic", False),
        (31.0, "static", True),
        (None, "dynamic", False),
        (None, "static", True),
    ],
)
def test_a_lease_is_longer_than_signs_take_to_be_seen(
    after: float | None, schedule: Any, fine: bool
) -> None:
    found: list[Finding] = []
    parallel = ParallelConfig(env="local", schedule=schedule, lease=60.0, heartbeat=30.0)
    judge_signs(after, parallel, lambda *words: found.append(Finding(*words)))
    assert [(finding.name, finding.fine) for finding in found] == [("signs of life", fine)]


def test_workers_that_keep_no_bytecode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project(tmp_path, "local")
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path / "nothing"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    found = findings(project)
    assert found["bytecode"].startswith("is not kept there, so every worker takes about")


def test_a_job_that_does_not_start(slurm: SlurmCluster, tmp_path: Path) -> None:
    """It is cancelled after the time that it was given, and the scheduler's reason shown."""
    project = Project(tmp_path, "slurm", OPTIONS)
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    found = findings(project, project.config, "--timeout", "1", code=1)
    assert found["job"].startswith("PROBLEM: did not begin within 1 s: ")
    assert "its partition is down (PartitionDown)" in found["job"]
    assert not slurm.jobs()
    slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


def test_a_node_that_is_not_as_this_host(slurm: SlurmCluster, tmp_path: Path) -> None:
    project = Project(tmp_path, "slurm", OPTIONS)
    prologue = json.dumps(["echo 'no such module' >&2", "exit 1"])
    found = findings(
        project, project.config, f"parallel.options.job_script_prologue={prologue}", code=1
    )
    assert found["job"].startswith("PROBLEM: lost: ")
    assert found["job"].endswith("ends: no such module")
    assert Path(found["folder"].removesuffix(" was left there")).is_dir()


ELSEWHERE = """#!/bin/sh
exec unshare --mount sh -c 'mount -t tmpfs none "$0" && exec "$@"' '{folder}' '{python}' "$@"
"""


def test_a_folder_that_the_node_does_not_have(slurm: SlurmCluster, tmp_path: Path) -> None:
    """As where the run directory is on a disk of the login node: the job sees another one there."""
    if subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
        pytest.skip("this user may not make mount namespaces")
    project = Project(tmp_path, "slurm", OPTIONS)
    runs = project.folder / "a run"
    runs.mkdir()
    python = tmp_path / "python"
    python.write_text(ELSEWHERE.format(folder=runs, python=sys.executable))
    python.chmod(0o755)
    settings = [f"parallel.options.python={python}", "parallel.preflight=false"]
    prologue = "parallel.options.job_script_prologue=[export ESPNET3_PATIENCE=1]"
    found = findings(project, project.config, *settings, prologue, code=1)
    assert found["job"].startswith("PROBLEM: lost: ")
    assert "run.json: no such file" in found["job"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["parallel.env=slrum"], "did you mean slurm?"),
        (["no-such.yaml"], "no-such.yaml: No such file"),
        (["parallel.env=kube"], "has no asynchronous mode"),
    ],
)
def test_wrong_usage(tmp_path: Path, words: list[str], problem: str) -> None:
    project = Project(tmp_path, "local")
    done = project("doctor", *words, code=2)
    assert problem in done.stderr
    assert done.stdout == ""
