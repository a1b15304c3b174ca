"""The stand-in for HTCondor as a site."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn


class HtcondorSite(Site):
    """HTCondor 23.0, by its manual."""

    env = "htcondor"
    options = {"cores": 1, "memory": "100MB", "disk": "100MB"}  # noqa: RUF012 (the base declares it as a class's)
    submit = "condor_submit"
    queries = ("condor_q", "condor_history")
    leaked = {  # noqa: RUF012 (the base declares it as a class's)
        "_CONDOR_JOB_AD": "/var/lib/condor/execute/dir_991/.job.ad",
        "_CONDOR_SCRATCH_DIR": "/var/lib/condor/execute/dir_991",
        "_CONDOR_ANCESTOR_991": "991:1700000000:3",
        "ESPNET3_HTCONDOR_JOB": "991.77",
    }
    refused = (
        {"job_extra_directives": {"universe": "nonesuch"}},
        "I don't know about the 'nonesuch' universe",
    )
    directive = ({"accounting_group": "of-the-options"}, '"AcctGroup": "of-the-options"')
    version = r"23\.0\."
    more_memory = ({"memory": "200MB"}, r'"DaskWorkerMemory": 200000000\b')
    four_hours = r'"PeriodicRemove": .*JobCurrentStartDate > 14400\b'
    gpu = ({"job_extra_directives": {"request_gpus": 1}}, r'"RequestGPUs": 1\b')
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
        self.cluster.run("condor_rm", f"{job_id}.{index or 0}")

    def shown(self, job_id: str) -> str:
        return self.cluster.run("condor_q", job_id, "-json")

    def reset(self) -> None:
        self.cluster.reset()


def submitted(
    cluster: StandIn, folder: Path, words: Sequence[str], text: str
) -> subprocess.CompletedProcess[str]:
    """What condor_submit makes of a description."""
    (folder / "job.sub").write_text(text)
    return subprocess.run(
        ["condor_submit", *words, str(folder / "job.sub")],
        env={**os.environ, **cluster.environ()},
        capture_output=True,
        text=True,
    )
