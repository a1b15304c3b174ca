"""What the job of a finisher asks for."""

from __future__ import annotations

import pytest

from espnet3.config.model import parse_parallel
from espnet3.submit.finishers import finisher_config


@pytest.mark.parametrize(
    ("env", "kept", "dropped"),
    [
        (
            "slurm",
            ["--partition=gpu", "-p gpu", "--account=gputeam", "-A timeless", "--qos=gpu-long",
             "--mail-type=TIME_LIMIT", "--comment=nodes", "-C skylake"],
            ["--gres=gpu:1", "-G 2", "-N 2", "-N2", "-c8", "-n 4", "-t 04:00:00", "--nodes=2",
             "--time 04:00:00", "--constraint=gpu", "--mem-per-cpu=4G", "--exclusive"],
        ),
        ("lsf", ["-q gpu", "-P memory", "-G group"],
         ["-gpu num=1", "-n 4", "-R rusage[mem=4]", "-W 4:00", "-M 4000"]),
        ("pbs", ["-q gpu", "-N name", "-A gpu", "-l place=scatter"],
         ["-l ngpus=2", "-l select=2:ncpus=8"]),
        ("sge", ["-q gpu.q", "-P gpu"], ["-l gpu=1", "-pe smp 4"]),
        ("oar", ["-q gpu", "--project=gpu"], ["-p gpu_count>0"]),
    ],
)  # fmt: skip
def test_directives_of_size_are_left_out_and_a_queue_is_none(
    env: str, kept: list[str], dropped: list[str]
) -> None:
    options = {"job_extra_directives": [*kept, *dropped]}
    config = parse_parallel({"env": env, "options": options, "finish": True})
    assert finisher_config(config).options["job_extra_directives"] == kept
