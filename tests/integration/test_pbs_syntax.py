"""What we hand to PBS's qsub, read by another program: Debian's slurm-wlm-torque, over a Slurm.

It knows the syntax of both PBS Pro and Torque, but is not PBS: only the submission is looked at.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.schedulers import get_dialect
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.submit import dry_run
from tests.support import debian
from tests.support.asking import waiting
from tests.support.helpers import parallel
from tests.support.runners import Clock, Square
from tests.support.slurm_cluster import SlurmCluster

PACKAGES = ("slurm-wlm-torque", "libslurm38", "libslurm-perl", "libslurmdb-perl", "libswitch-perl")
VERSIONS = {"PBS Pro": "pbs_version = 23.06.06", "Torque": "Version: 6.1.3"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages' files; installed, they would conflict with SGE's."""
    folder = tmp_path_factory.mktemp("torque")
    try:
        debian.unpack(PACKAGES, folder)
    except debian.PackagesUnavailableError as missing:
        debian.skip_or_fail("qsub over Slurm", missing)
    return folder


@pytest.fixture
def qsub(
    slurm: SlurmCluster, unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder on PATH with that qsub, which calls the sbatch beside it. Nothing starts."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "qsub").write_bytes((unpacked / "usr/bin/qsub").read_bytes())
    (folder / "qsub").chmod(0o755)
    (folder / "sbatch").symlink_to("/usr/bin/sbatch")
    modules = [path.parent for path in unpacked.glob("usr/**/S*.pm") if path.parent.name != "Slurm"]
    monkeypatch.setenv("PERL5LIB", ":".join(map(str, modules)))
    libraries = [str(path.parent) for path in unpacked.glob("usr/lib/*/libslurm.so.*")]
    monkeypatch.setenv("LD_LIBRARY_PATH", ":".join(libraries))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    slurm.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    yield folder
    slurm.run("scontrol", "update", "PartitionName=main", "State=UP")


@pytest.mark.parametrize("flavour", VERSIONS)
def test_the_submission_is_understood(
    slurm: SlurmCluster, qsub: Path, tmp_path: Path, flavour: str
) -> None:
    (qsub / "qstat").write_text(f"#!/bin/sh\necho '{VERSIONS[flavour]}'\n")
    (qsub / "qstat").chmod(0o755)
    resources = "select=1:ncpus=1" if flavour == "PBS Pro" else "nodes=1:ppn=1"
    options = {"cores": 1, "memory": "100MB", "walltime": "0:20:00", "resource_spec": resources}
    config = parallel("pbs", n_shards=4, n_workers=2, max_array_size=4, options=options)
    runner = Square(Clock({"folder": str(tmp_path)}))
    [shown] = asyncio.run(dry_run(runner, range(4), run_dir=tmp_path / "run", parallel=config))
    (tmp_path / "job.sh").write_text(shown.script)

    def submit(*more: str) -> str:
        words = [*shown.command, *more, str(tmp_path / "job.sh")]
        done = subprocess.run(words, capture_output=True, text=True)
        job_id = BatchSystem(get_dialect("pbs")).parse_job_id(done.stdout)
        assert job_id is not None, done
        return job_id

    first = submit()
    job = slurm.run("scontrol", "show", "job", first).stdout
    name = shown.command[shown.command.index("-N") + 1]
    for words in (f"JobName={name}", "ArrayTaskId=0-3%2", "TimeLimit=00:20:00", "StdOut=/dev/null"):
        assert words in job
    second = submit(*waiting(BatchSystem(get_dialect("pbs")), first))
    assert f"Dependency=afterany:{first}" in slurm.run("scontrol", "show", "job", second).stdout
