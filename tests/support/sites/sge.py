"""The real SGE of the tests as a site."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.sge_cluster import SgeCluster
from tests.support.sites.site import Site


class SgeSite(Site):
    """Son of Grid Engine 8.1.9."""

    env = "sge"
    submit = "qsub"
    queries = ("qstat", "qacct")
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "SGE_TASK_ID": "77",
        "JOB_ID": "991",
        "SGE_LEAKED": "yes",
        "RESTARTED": "1",
        "QUEUE": "no-such-queue",
    }
    refused = ({"queue": "no-such-queue"}, 'unknown queue "no-such-queue"')
    directive = ("-ac comment='of the options'", "of the options")
    version = r"8\.1\.9"
    more_memory = ({"resource_spec": "mem_free=20M"}, "mem_free=20M")
    four_hours = r"h_rt=14400\b"
    gpu = ({"resource_spec": "gpu=1"}, r"hard resource_list:.*\bgpu=1\b")
    limit = "0:0:4"

    def __init__(self, cluster: SgeCluster) -> None:
        self.cluster = cluster

    def environ(self) -> Mapping[str, str]:
        return self.cluster.env

    def hold(self) -> None:
        self.cluster.run("qmod", "-d", "all.q")

    def release(self) -> None:
        self.cluster.run("qmod", "-e", "all.q")

    def cancel_task(self, job_id: str, index: int | None) -> None:
        self.cluster.run("qdel", job_id if index is None else f"{job_id}.{index + 1}")

    def shown(self, job_id: str) -> str:
        return self.cluster.run("qstat", "-j", job_id).stdout

    def reset(self) -> None:
        self.cluster.reset()
