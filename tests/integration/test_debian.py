"""A server that cannot be had: its tests are skipped, or fail where CI asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import guard, oar_cluster, sge_cluster, slurm_cluster
from tests.support.debian import require
from tests.support.slurm_accounting import ACCOUNTING_PROGRAMS

SERVERS = {
    "Slurm": slurm_cluster.PROGRAMS,
    "Slurm's accounting": ACCOUNTING_PROGRAMS,
    "SGE": sge_cluster.PROGRAMS,
    "OAR": oar_cluster.PROGRAMS,
}


def _elsewhere(programs: Mapping[str, str]) -> dict[str, str]:
    """The same packages, as if none were installed."""
    return {f"/no/such{program}": package for program, package in programs.items()}


@pytest.mark.parametrize("server", SERVERS)
def test_without_its_packages(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no apt-get either
    monkeypatch.delenv("ESPNET3_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"^{server} needs the Debian packages "):
        require(server, _elsewhere(SERVERS[server]))
    monkeypatch.setenv("ESPNET3_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=f"but {server} needs the Debian packages "):
        require(server, _elsewhere(SERVERS[server]))


def test_nothing_is_installed_or_started_where_no_server_is_wanted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in `make test-fast`: a missing server skips, and one that would be started fails."""
    monkeypatch.setenv(guard.WITHOUT_SERVERS, "1")
    monkeypatch.delenv("ESPNET3_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{guard.WITHOUT_SERVERS}=1"):
        require("Slurm", _elsewhere(SERVERS["Slurm"]))
    with pytest.raises(RuntimeError, match="mark it `server`"):
        guard.started("tests.support.slurm_cluster", tmp_path)
