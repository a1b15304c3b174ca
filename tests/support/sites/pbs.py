"""The stand-ins for PBS Pro and Torque as sites."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

COMMANDS = ("qsub", "qstat", "qselect", "qdel", "qhold", "qrls")


class PbsProSite(Site):
    """OpenPBS 23.06, by its manual pages and what a real one said."""

    env = "pbs"
    submit = "qsub"
    queries = ("qstat", "qselect")
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "PBS_ARRAY_INDEX": "77",
        "PBS_JOBID": "991[77].pbs",
        "PBS_LEAKED": "yes",
        "PBS_DPREFIX": "#OTHER",
    }
    refused = ({"queue": "no-such-queue"}, "Unknown queue")
    directive = ("-A of-the-options", "Account_Name = of-the-options")
    version = r"23\.06"
    more_memory = ({"memory": "200MB"}, r"Resource_List\.select = 1:ncpus=1:mem=\S+")
    four_hours = r"Resource_List\.walltime = 04:00:00"
    gpu = ({"resource_spec": "select=1:ncpus=1:ngpus=1"}, r"Resource_List\.select = .*:ngpus=1\b")
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
        task = job_id if index is None else job_id.replace("[]", f"[{index}]")
        self.cluster.run("qdel", task)

    def shown(self, job_id: str) -> str:
        return self.cluster.run("qstat", "-f", job_id)

    def reset(self) -> None:
        self.cluster.reset()


class TorqueSite(PbsProSite):
    """Torque 6.1, by its manual pages."""

    options = {"cores": 1, "memory": "100MB", "resource_spec": "nodes=1:ppn=1"}  # noqa: RUF012
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "PBS_ARRAYID": "77",
        "PBS_JOBID": "991[77].head.site",
        "PBS_LEAKED": "yes",
    }
    version = r"6\.1"
    more_memory = ({"resource_spec": "nodes=1:ppn=1,mem=200mb"}, r"Resource_List\.mem = 200mb")
    gpu = ({"resource_spec": "nodes=1:ppn=1:gpus=1"}, r"Resource_List\.nodes = 1:ppn=1:gpus=1\b")


def refusal(
    cluster: StandIn, folder: Path, words: Sequence[str], script: str, *, command: str = "qsub"
) -> str:
    """What the submit command complains of when it refuses a script."""
    (folder / "job.sh").write_text(script)
    done = subprocess.run(
        [command, *words, str(folder / "job.sh")],
        env={**os.environ, **cluster.environ()},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert done.stdout == ""
    return done.stderr
