"""How many GPUs and cores options ask for, in the words of the known schedulers."""

from __future__ import annotations

from typing import Any

import pytest

from espnet3.report.asked import gpus
from espnet3.specs.items import ItemRange
from espnet3.specs.models import PlannedJob, ProcessIdentity, Submission, now


def submission(scheduler: str = "slurm", **options: Any) -> Submission:
    return Submission(
        number=1, created=now(), submitter=ProcessIdentity(host="h", pid=1, started=0.0, user="u"),
        scheduler=scheduler, n_workers=1, shards_per_job=1, options=options, parallel={},
        worker_command=[], submit_command=[], script="", log_directory="/l",
        ranks=ItemRange(start=0, stop=1),
        jobs=[PlannedJob(name="j", first_task=0, n_tasks=1, log="l")],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({"job_extra_directives": ["--gres=gpu:1"]}, 1),
        ({"job_extra_directives": ["--gres=gpu"]}, 1),
        ({"job_extra_directives": ["--gres=gpu:a100:2", "--exclusive"]}, 2),
        ({"job_extra_directives": ["--gpus-per-task=4"]}, 4),
        ({"job_extra_directives": ["--gpus=v100:3"]}, 3),
        ({"job_extra_directives": ['-gpu "num=2"']}, 2),
        ({"job_extra_directives": {"request_gpus": 1}}, 1),
        ({"resource_spec": "select=1:ncpus=4:ngpus=2"}, 2),
        ({"resource_spec": "nodes=1:ppn=4:gpus=1"}, 1),
        ({"resource_spec": "/nodes=1/gpu=1"}, 1),
        ({"resource_spec": "h_vmem=8G,gpu=1"}, 1),
        ({"queue": "gpu", "cores": 8}, 0),
        ({"job_extra_directives": ["--partition=gpu2", "--mem=4G"]}, 0),
        ({}, 0),
    ],
)
def test_gpus(options: dict[str, Any], n: int) -> None:
    assert gpus(submission(**options)) == n


def test_local_gpus_are_one_each() -> None:
    assert gpus(submission("local_gpu", CUDA_VISIBLE_DEVICES=["0", "1"])) == 1
