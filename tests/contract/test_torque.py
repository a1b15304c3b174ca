"""The conformance suite on a stand-in for Torque, and that this is strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.contract.sites.pbs import COMMANDS, TorqueSite, refusal
from tests.contract.sites.site import Site
from tests.stand_ins.batch import StandIn

ONE = "#!/bin/sh\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("torque") / "here"
    with StandIn(folder, "tests.stand_ins.torque", COMMANDS).running() as started:
        yield started


class TestTorque(SchedulerContract):
    """At the commands."""

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return TorqueSite(cluster)


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "0-3"], ONE, "invalid option"),
        (["-N", "n" * 16], ONE, "illegal -N value"),
        (["-t", "0-0"], ONE, "Bad Job Array Request"),
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
