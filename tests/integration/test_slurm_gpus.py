"""GPUs on a real Slurm, whose devices are copies of /dev/null."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.errors import SubmissionRefused
from espnet3.run import Run, submit_run
from tests.support.helpers import (
    causes,
    ended,
    jobs,
    locally,
    parallel,
    submit_noting,
    wait_for,
)
from tests.support.runners import Echo, Shell
from tests.support.slurm_cluster import SlurmCluster
from tests.support.slurm_fixtures import talking_to

pytestmark = pytest.mark.slurm
NAMES = ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS"]


@pytest.fixture
def slurm(
    slurm_packages: None, short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmCluster]:
    """A cluster of one node with two GPUs."""
    with SlurmCluster(short_tmp, gpus=2) as cluster, talking_to(cluster, monkeypatch):
        yield cluster


def test_a_worker_sees_the_gpus_of_its_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make device files, and Slurm names GPUs by these alone")
    for number in (1, 2):
        options = {"job_extra_directives": [f"--gres=gpu:{number}"]}
        run = submit_run(
            Echo(Shell({})),
            NAMES,
            run_dir=tmp_path / str(number),
            parallel=parallel(n_shards=1, options=options),
        )
        devices = ",".join(str(n) for n in range(number))
        assert ended(run).collect() == [devices, devices]


def test_no_two_tasks_have_the_same_gpu(slurm: SlurmCluster, tmp_path: Path) -> None:
    options = {"job_extra_directives": ["--gres=gpu:1"]}
    run = submit_noting(tmp_path, 3, parallel(n_shards=3, options=options), gated=range(3))
    wait_for(lambda: run.status().counts() == {"running": 2, "queued": 1}, "two do not run")
    [job] = jobs(run).jobs
    told = slurm.run("scontrol", "show", "job", "--details", job.job_id).stdout
    assert {words for words in told.split() if words.startswith("GRES=")} == {
        "GRES=gpu:1(IDX:0)",
        "GRES=gpu:1(IDX:1)",
    }
    run.cancel()
    ended(run)


def test_more_gpus_than_a_node_has(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Slurm refuses the job, or takes it and lets it fail at once; both are told in its words."""
    options = {"job_extra_directives": ["--gres=gpu:3"]}
    with contextlib.suppress(SubmissionRefused):
        submit_noting(tmp_path, 1, parallel(n_shards=1, options=options))
    run = ended(Run(tmp_path / "run"))
    assert re.search(
        "Requested node configuration is not available|BadConstraints", causes(run)[0]
    ), causes(run)
    run.resume(options={"job_extra_directives": ["--gres=gpu:2"]})
    assert ended(run).collect() == locally(tmp_path, 1)
