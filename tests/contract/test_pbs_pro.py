"""The conformance suite on a stand-in for PBS Pro, and that this is strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.contract.sites.pbs import COMMANDS, PbsProSite, refusal
from tests.contract.sites.site import Site
from tests.stand_ins.batch import StandIn

ONE = "#!/bin/sh\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("pbs_pro") / "here"
    with StandIn(folder, "tests.stand_ins.pbs_pro", COMMANDS).running() as started:
        yield started


class TestPbsPro(SchedulerContract):
    """At the commands."""

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return PbsProSite(cluster)


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "0-0"], ONE, "illegal -J value"),
        (["-J", "0,2,4"], ONE, "illegal -J value"),
        (["-J", "0-20000"], ONE, "exceeds server or queue size limit"),
        (["-t", "0-3"], ONE, "invalid option"),
        (["-N", "1st"], ONE, "illegal -N value"),
        (["-l", "nodes=1:ppn=1"], ONE, "Illegal attribute or resource value"),
        (["-l", "walltime=1-00:00:00"], ONE, "Illegal attribute or resource value"),
        (["-W", "depend=afterany:99.pbs"], ONE, "Unknown Job Id 99.pbs"),
        (["-W", "depend=afteranyarray:99[].pbs"], ONE, "illegal -W value"),
        ([], f"{ONE}#PBS --mem=1\n", "directive error: --mem=1"),
    ],
)
def test_what_it_refuses(
    cluster: StandIn, tmp_path: Path, words: list[str], script: str, complaint: str
) -> None:
    assert complaint in refusal(cluster, tmp_path, words, script)
