"""The conformance suite on a real SGE."""

from __future__ import annotations

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.sge_cluster import SgeCluster
from tests.support.sites.sge import SgeSite
from tests.support.sites.site import Site


class TestSge(SchedulerContract):
    """Debian's."""

    @pytest.fixture
    def site(self, sge_cluster: SgeCluster) -> Site:
        return SgeSite(sge_cluster)
