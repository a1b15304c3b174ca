"""The conformance suite on a real SGE."""

from __future__ import annotations

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.contract.sites.sge import SgeSite
from tests.contract.sites.site import Site
from tests.integration.sge_cluster import SgeCluster


class TestSge(SchedulerContract):
    """Debian's."""

    @pytest.fixture
    def site(self, sge_cluster: SgeCluster) -> Site:
        return SgeSite(sge_cluster)
