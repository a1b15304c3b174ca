"""The real OAR of the tests as a site."""

from __future__ import annotations

from tests.support.oar_cluster import OarCluster
from tests.support.sites.site import Site


class OarSite(Site):
    """OAR 2.5.9, with PostgreSQL."""

    env = "oar"
    options = {  # noqa: RUF012 (the base declares it as a class's)
        "cores": 1,
        "memory": "100MB",
        "memory_per_core_property_name": "not_applicable",
    }
    submit = "oarsub"
    queries = ("oarstat",)
    leaked = {  # noqa: RUF012 (as above)
        "OAR_ARRAY_INDEX": "77",
        "OAR_JOB_ID": "991",
        "OAR_LEAKED": "yes",
    }
    refused = ({"queue": "no-such-queue"}, "The queue no-such-queue does not exist")
    directive = ("--project 'of the options'", "of the options")
    version = r"2\.5\.9"
    more_memory = (
        {"memory": "200MB", "memory_per_core_property_name": "memcore"},
        r"memcore ?>= ?191\b",
    )
    four_hours = r"walltime=0?4:0"
    gpu = ({"resource_spec": "/nodes=1/gpu=1"}, r"/gpu=1\b")
    limit = "0:0:10"

    def __init__(self, cluster: OarCluster) -> None:
        self.cluster = cluster

    def hold(self) -> None:
        self.cluster.hold()

    def release(self) -> None:
        self.cluster.release()

    def cancel_task(self, job_id: str, index: int | None) -> None:
        place = f"array_id = {job_id} and array_index = {(index or 0) + 1}"
        self.cluster.run("oardel", "--sql", place)

    def shown(self, job_id: str) -> str:
        return self.cluster.run("oarstat", "--full", "--job", job_id).stdout

    def reset(self) -> None:
        self.cluster.reset()
