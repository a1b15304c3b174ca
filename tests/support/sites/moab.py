"""The stand-in for Moab as a site."""

from __future__ import annotations

from collections.abc import Mapping

from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

COMMANDS = ("msub", "showq", "checkjob", "canceljob")


class MoabSite(Site):
    """Moab 9.1 above Torque, by its manual."""

    env = "moab"
    submit = "msub"
    queries = ("showq",)
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "MOAB_JOBARRAYINDEX": "77",
        "MOAB_JOBID": "Moab.991[77]",
        "PBS_JOBID": "991.head",
        "SLURM_JOB_ID": "991",
    }
    refused = ({"queue": "no-such-queue"}, "cannot locate class 'no-such-queue'")
    directive = ("-A of-the-options", "account:of-the-options")
    version = r"9\.1\."
    more_memory = ({"memory": "200MB"}, r"Dedicated Resources Per Task: .*\bMEM: 191M")
    four_hours = r"WallTime: +00:00:00 of 0?4:00:00"
    gpu = ({"resource_spec": "nodes=1:ppn=1:gpus=1"}, r"Dedicated Resources Per Task: .*GPUS: 1\b")
    limit = "0:0:3"

    def __init__(self, cluster: StandIn) -> None:
        self.cluster = cluster

    def environ(self) -> Mapping[str, str]:
        return self.cluster.environ()

    def hold(self) -> None:
        self.cluster.queue.hold(True)

    def release(self) -> None:
        self.cluster.queue.hold(False)

    def cancel_task(self, job_id: str, index: int | None) -> None:
        self.cluster.run("canceljob", job_id if index is None else f"{job_id}[{index}]")

    def shown(self, job_id: str) -> str:
        return self.cluster.run("checkjob", job_id)

    def reset(self) -> None:
        self.cluster.reset()
