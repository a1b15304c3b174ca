"""One real SGE per test process, started when the first test asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.support import sge_cluster as sc
from tests.support.debian import require


@pytest.fixture(scope="session")
def sge_cluster() -> Iterator[sc.SgeCluster]:
    """The session's cluster."""
    require("SGE", sc.PROGRAMS, sc.ANSWERS)
    temporary = tempfile.TemporaryDirectory(prefix="sge-", ignore_cleanup_errors=True)
    with temporary as folder, sc.SgeCluster(folder) as cluster:
        yield cluster
