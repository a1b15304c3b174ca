"""The conformance suite on a real SGE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.scheduler_contract import SchedulerContract
from tests.support.helpers import ended, jobs, locally, noted, states, submit_noting
from tests.support.sge_cluster import SgeCluster
from tests.support.sites.sge import SgeSite
from tests.support.sites.site import Site


class TestSge(SchedulerContract):
    """Debian's."""

    @pytest.fixture
    def site(self, sge_cluster: SgeCluster) -> Site:
        return SgeSite(sge_cluster)

    @pytest.mark.parametrize("options", [{}, {"resource_spec": "hostname=*"}])
    def test_the_only_host_is_avoided(
        self,
        sge_cluster: SgeCluster,
        config: Any,
        tmp_path: Path,
        options: dict[str, Any],
    ) -> None:
        """Nothing runs there, however its domain is called, and others' jobs do."""
        wanted = config(options, n_shards=2)
        without = [f"{sge_cluster.host}.site.org"]
        avoiding = submit_noting(tmp_path, 2, {**wanted, "exclude_nodes": without})
        other = tmp_path / "other"
        other.mkdir()
        assert ended(submit_noting(other, 2, wanted)).collect() == locally(other, 2)
        assert states(avoiding) == {0: "queued", 1: "queued"}
        assert not noted(tmp_path, "begun")
        [job] = jobs(avoiding).jobs
        sge_cluster.run("qalter", "-l", "h_rt=3600", job.job_id)  # without what it asked for
        assert ended(avoiding).collect() == locally(tmp_path, 2)
