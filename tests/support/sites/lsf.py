"""The stand-in for LSF as a site."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

COMMANDS = ("bsub", "bjobs", "bkill", "bparams", "lsid")


class LsfSite(Site):
    """LSF 10.1, by its references."""

    env = "lsf"
    submit = "bsub"
    queries = ("bjobs",)
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "LSB_JOBINDEX": "77",
        "LSB_JOBID": "991",
        "LSB_LEAKED": "yes",
        "LSF_LEAKED": "yes",
        "LS_SUBCWD": "/leaked",
        "BSUB_QUIET": "y",
    }
    refused = ({"queue": "no-such-queue"}, "no-such-queue: No such queue. Job not submitted.")
    directive = ("-P of-the-options", "Project <of-the-options>")
    version = r"LSF .* 10\.1\."
    more_memory = ({"memory": "200MB"}, r"MEMLIMIT\n +195\.3 M")
    four_hours = r"RUNLIMIT\n +240\.0 min"
    gpu = ({"job_extra_directives": ['-gpu "num=1"']}, r"Requested GPU <num=1>")
    limit = "1"

    def __init__(self, cluster: StandIn) -> None:
        self.cluster = cluster

    def environ(self) -> Mapping[str, str]:
        return self.cluster.environ()

    def hold(self) -> None:
        self.cluster.queue.hold(True)

    def release(self) -> None:
        self.cluster.queue.hold(False)

    def cancel_task(self, job_id: str, index: int | None) -> None:
        self.cluster.run("bkill", job_id if index is None else f"{job_id}[{index + 1}]")

    def shown(self, job_id: str) -> str:
        return self.cluster.run("bjobs", "-UF", job_id)

    def reset(self) -> None:
        self.cluster.reset()
