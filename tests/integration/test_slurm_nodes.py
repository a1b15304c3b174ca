"""Nodes that a run keeps away from, on a Slurm with several."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from tests.support.helpers import causes, ended, parallel, states
from tests.support.runners import Echo, Shell
from tests.support.slurm_cluster import SlurmCluster

pytestmark = pytest.mark.slurm


@pytest.fixture
def three(slurm_packages: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """A cluster of three nodes, which all are this host."""
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, SlurmCluster(folder, nodes=3, cpus=4) as started:
        for name, value in started.env.items():
            monkeypatch.setenv(name, value)
        yield started


def submitted(folder: Path, without: list[str]) -> Run:
    """A run whose user excludes node2 already."""
    directives: dict[str, Any] = {"job_extra_directives": ["--exclude=node2"]}
    config = parallel("slurm", n_shards=6, options=directives, exclude_nodes=without)
    names = ["SLURMD_NODENAME"] * 6
    return submit_run(Echo(Shell({})), names, run_dir=folder, parallel=config)


def test_a_job_goes_where_it_may(three: SlurmCluster, tmp_path: Path) -> None:
    """The options' nodes are avoided as well, and what is no node's name is passed over."""
    named = ["node1.site.org", "no-such-node"]
    run = submitted(tmp_path / "one", named)
    assert ended(run).collect() == ["node3"] * 6
    # All three have this host's name. Slurm gives up what can run nowhere.
    nowhere = ended(submitted(tmp_path / "none", [socket.gethostname()]))
    assert set(states(nowhere).values()) == {"lost"}
    assert all("no node can satisfy" in cause for cause in causes(nowhere).values())
