"""The conformance suite on a stand-in for Moab, and that this is strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.sites.moab import COMMANDS, MoabSite
from tests.support.sites.pbs import refusal
from tests.support.sites.site import Site
from tests.support.stand_ins.batch import StandIn

ONE = "#!/bin/sh\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """The stand-in, running."""
    folder = tmp_path_factory.mktemp("moab") / "here"
    with StandIn(folder, "tests.support.stand_ins.moab", COMMANDS).running() as started:
        yield started


class TestMoab(SchedulerContract):
    """At the commands."""

    real = False

    @pytest.fixture
    def site(self, cluster: StandIn) -> Site:
        return MoabSite(cluster)


@pytest.mark.parametrize(
    ("words", "script", "complaint"),
    [
        (["-J", "0-3"], ONE, "invalid option"),
        (["-t", "a.[0-]"], ONE, "invalid job array specification"),
        (["-t", "a.[3-0]"], ONE, "invalid job array specification"),
        (["-t", "a.0-3"], ONE, "invalid job array specification"),
        (["-t", "a.[0-3]%0"], ONE, "invalid job array specification"),
        (["-t", "a.[0-100000]"], ONE, "exceeds the limit of 100000 sub-jobs"),
        (["-N", "n" * 16], ONE, "invalid value for option -N"),
        (["-N", "1st"], ONE, "invalid value for option -N"),
        (["-l", "select=1:ncpus=1"], ONE, "invalid resource specification"),
        (["-l", "walltime=1-00:00:00"], ONE, "invalid walltime"),
        (["-l", "walltime=soon"], ONE, "invalid walltime"),
        (["-l", "depend=afterany:Moab.99"], ONE, "invalid job specified (Moab.99)"),
        (["-l", "depend=later:Moab.99"], ONE, "invalid dependency"),
        (["-W", "depend=afterany:Moab.99"], ONE, "invalid value for option -W"),
        (["-q", "none"], ONE, "cannot locate class 'none'"),
        ([], f"{ONE}#MSUB --mem=1\n", "directive error: --mem=1"),
        ([], f"{ONE}#PBS -N {'n' * 16}\n", "invalid value for option -N"),
    ],
)
def test_what_it_refuses(
    cluster: StandIn, tmp_path: Path, words: list[str], script: str, complaint: str
) -> None:
    assert complaint in refusal(cluster, tmp_path, words, script, command="msub")
