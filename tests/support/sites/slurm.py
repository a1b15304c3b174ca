"""The real Slurm of the tests as a site."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.sites.site import Site
from tests.support.slurm_cluster import SlurmCluster


class SlurmSite(Site):
    """Slurm 22.05, without accounting."""

    env = "slurm"
    submit = "sbatch"
    queries = ("squeue", "sacct")
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "SLURM_ARRAY_TASK_ID": "77",
        "SLURM_JOB_ID": "991",
        "SLURM_LEAKED": "yes",
        "SBATCH_PARTITION": "no-such-partition",
    }
    refused = ({"queue": "no-such-partition"}, "invalid partition specified: no-such-partition")
    directive = ("--comment='of the options'", "of the options")
    version = r"^slurm\S* 22\."
    more_memory = ({"memory": "200MB"}, "MinMemoryNode=191M")
    four_hours = "TimeLimit=04:00:00"
    gpu = ({"job_extra_directives": ["--gres=gpu:1"]}, r"TresPerNode=gres:gpu:1\b")

    def __init__(self, cluster: SlurmCluster) -> None:
        self.cluster = cluster

    def environ(self) -> Mapping[str, str]:
        return self.cluster.env

    def hold(self) -> None:
        self.cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")

    def release(self) -> None:
        self.cluster.run("scontrol", "update", "PartitionName=main", "State=UP")

    def cancel_task(self, job_id: str, index: int | None) -> None:
        self.cluster.run("scancel", job_id if index is None else f"{job_id}_{index}")

    def shown(self, job_id: str) -> str:
        return self.cluster.run("scontrol", "show", "job", job_id).stdout

    def reset(self) -> None:
        self.release()
        self.cluster.reset()
