"""The conformance suite on a stand-in for Torque, and that this is strict."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.helpers import (
    causes,
    ended,
    jobs,
    locally,
    noted,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.sites.pbs import COMMANDS, TorqueSite, refusal
from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

ONE = "#!/bin/sh\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("torque") / "here"
    with StandIn(folder, "tests.support.stand_ins.torque", COMMANDS).running() as started:
        yield started


class TestTorque(SchedulerContract):
    """At the commands."""

    real = False

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return TorqueSite(cluster)

    def test_tasks_beyond_the_throttle_say_why_they_wait(self, config: Any, tmp_path: Path) -> None:
        """They are held, by nobody who could release them."""
        run = submit_noting(tmp_path, 3, config(n_shards=3, n_workers=1), gated=range(3))
        wait_for(lambda: noted(tmp_path, "begun").total() == 1, "none begins")
        waiting = [cause for rank, cause in causes(run).items() if states(run)[rank] == "queued"]
        assert len(waiting) == 2
        words = "as many tasks of its array run as may at a time"
        assert all(cause.endswith(words) for cause in waiting), waiting
        (tmp_path / GATE).touch()
        assert ended(run).collect() == locally(tmp_path, 3)

    def test_a_held_array(self, site: Site, cluster: StandIn, config: Any, tmp_path: Path) -> None:
        site.hold()
        run = submit_noting(tmp_path, 2, config(n_shards=2))
        [job] = jobs(run).jobs
        cluster.run("qhold", job.job_id)
        site.release()
        for rank, cause in causes(run).items():
            task = job.job_id.replace("[]", f"[{rank}]")
            assert cause.endswith(f"held, `qrls {task}` lets it start")
        cluster.run("qrls", job.job_id)
        assert ended(run).collect() == locally(tmp_path, 2)


def test_an_array_of_one(cluster: StandIn, tmp_path: Path) -> None:
    """6.1 takes it, where PBS Pro does not."""
    (tmp_path / "job.sh").write_text(ONE)
    job_id = cluster.run("qsub", "-t", "0-0", str(tmp_path / "job.sh"))
    assert re.fullmatch(r"\d+\[\]\.head\.site\n", job_id)


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "0-3"], ONE, "invalid option"),
        (["-N", "n" * 16], ONE, "illegal -N value"),
        (["-t", "1-0"], ONE, "Bad Job Array Request"),
        (["-t", "0-1000"], ONE, "Requested array size too large"),
        (["-l", "select=1:ncpus=1"], ONE, "Unknown resource type"),
        (["-W", "depend=afterany:99[].head.site"], ONE, "Unknown Job Id Error"),
        ([], f"{ONE}#PBS -N {'n' * 16}\n", "illegal -N value"),
    ],
)
def test_what_it_refuses(
    cluster: StandIn, tmp_path: Path, words: list[str], script: str, complaint: str
) -> None:
    assert complaint in refusal(cluster, tmp_path, words, script)
