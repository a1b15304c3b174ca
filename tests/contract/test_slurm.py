"""The conformance suite on a real Slurm."""

from __future__ import annotations

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.sites.site import Site
from tests.support.sites.slurm import SlurmSite
from tests.support.slurm_cluster import SlurmCluster


class TestSlurm(SchedulerContract):
    """Debian's."""

    @pytest.fixture
    def site(self, slurm_cluster: SlurmCluster) -> Site:
        return SlurmSite(slurm_cluster)
