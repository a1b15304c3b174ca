"""One real Slurm per test process, started when the first test asks for it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import slurm_cluster as sc
from tests.support.debian import require

# Fixtures that start a real server, or install one.
SERVERS = {"slurm_packages", "sge_cluster", "oar", "sshd_is_installed"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Slurm or any server, so that ``-m "not server"`` is always right."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if {"slurm", "slurm_cluster"} & names:
            item.add_marker("slurm")
        if SERVERS & names or any(map(item.get_closest_marker, ("slurm", "s3"))):
            item.add_marker("server")


@pytest.fixture(scope="session")
def slurm_packages() -> None:
    """Slurm's programs; without them the test is skipped, or fails if ESPNET3_REQUIRE_SLURM=1."""
    require("Slurm", sc.PROGRAMS)


@pytest.fixture(scope="session")
def slurm_cluster(slurm_packages: None) -> Iterator[sc.SlurmCluster]:
    """The session's cluster. Under pytest-xdist each worker has its own, on its own ports.

    Not in pytest's tmp_path: a socket's path is limited to 107 bytes.
    """
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, sc.SlurmCluster(folder, gpus=2) as cluster:
        yield cluster


@contextlib.contextmanager
def talking_to(cluster: sc.SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Point SLURM_CONF and the like to a cluster for one test, and leave the cluster empty."""
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    yield
    cluster.reset()


@pytest.fixture
def slurm(
    slurm_cluster: sc.SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sc.SlurmCluster]:
    """The session's cluster, empty, and with SLURM_CONF pointing to it for this test."""
    with talking_to(slurm_cluster, monkeypatch):
        yield slurm_cluster


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A folder whose path is short enough for a cluster of the test's own."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)
