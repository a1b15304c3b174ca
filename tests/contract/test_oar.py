"""The conformance suite on a real OAR, and what is true of OAR alone.

All of it stands in one module, since there is one OAR per machine: `--dist loadfile` keeps it in
one process.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import SubmissionRefused
from tests.contract.scheduler_contract import SchedulerContract
from tests.support.debian import require
from tests.support.helpers import (
    causes,
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.interrupted import WAYS, leaves_nothing
from tests.support.oar_cluster import PROGRAMS, REPLACED, OarCluster, original
from tests.support.runners import GATE
from tests.support.sites.oar import OarSite
from tests.support.sites.site import Site


@pytest.fixture(scope="module")
def oar() -> Iterator[OarCluster]:
    """The machine's only OAR."""
    require("OAR", PROGRAMS)
    temporary = tempfile.TemporaryDirectory(prefix="oar-", ignore_cleanup_errors=True)
    with temporary as folder, OarCluster(folder) as cluster:
        yield cluster


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize("way", WAYS)
def test_no_oar_stays_behind(tmp_path: Path, way: str) -> None:
    """First of all, as long as this process does not have the only OAR."""
    require("OAR", PROGRAMS)
    setup = "from tests.support.oar_cluster import OarCluster"
    job = "cluster.run('oarsub', '-d', '/tmp', 'sleep 1000')"
    leaves_nothing(tmp_path, way, setup, "OarCluster", job)
    assert not any(original(file).exists() for file in REPLACED)


class TestOar(SchedulerContract):
    """Debian's."""

    @pytest.fixture
    def site(self, oar: OarCluster) -> Site:
        return OarSite(oar)


@pytest.fixture
def quiet(oar: OarCluster) -> Iterator[OarCluster]:
    """The OAR, without jobs before and after."""
    yield oar
    oar.reset()


def config(options: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A parallel config for small jobs."""
    given: dict[str, Any] = parallel("oar", options={**OarSite.options, **(options or {})}, **keys)
    return given


def test_a_lost_database(quiet: OarCluster, tmp_path: Path) -> None:
    """Nothing is known then, the work goes on, and all is known again later."""
    run = submit_noting(tmp_path, 2, config(n_shards=2), gated=[0, 1])
    wait_for(lambda: set(states(run).values()) == {"running"}, "not all run")
    workers = processes_of(run)
    quiet.stop_server()
    quiet.stop_database()
    seen = run.status()
    assert re.search("DB connection error", str(seen.scheduler_problem))
    assert {shard.state for shard in seen.shards} == {"running"}
    assert processes_of(run) == workers
    quiet.start_database()
    quiet.start_server()
    assert set(states(run).values()) == {"running"}
    (tmp_path / GATE).touch()  # only now: OAR asks after those that end unheard half a minute later
    assert ended(run).collect() == locally(tmp_path, 2)
    assert noted(tmp_path, "begun") == once(range(2))


def test_a_lost_server(quiet: OarCluster, tmp_path: Path) -> None:
    """It has the job although oarsub says that this is killed, and nothing runs twice."""
    quiet.stop_server()
    try:
        run = submit_noting(tmp_path, 2, config(n_shards=2))
        assert set(states(run).values()) == {"queued"}
    finally:
        quiet.start_server()
    assert ended(run).collect() == locally(tmp_path, 2)
    assert noted(tmp_path, "begun") == once(range(2))


def test_a_warning_before_the_end(quiet: OarCluster, tmp_path: Path) -> None:
    """What `--checkpoint` makes OAR send before the time limit, sent now."""
    run = submit_noting(
        tmp_path, 2, config({"job_extra_directives": ["--checkpoint 60"]}, n_shards=1), gated=[1]
    )
    wait_for(lambda: noted(tmp_path, "begun") == once(range(2)), "it does not begin")
    [job] = jobs(run).jobs
    quiet.run("oardel", "--checkpoint", job.job_id)
    wait_for(lambda: states(run) == {0: "interrupted"}, "it is not interrupted")
    assert "SIGUSR2" in causes(run)[0]
    assert "1 item done" in causes(run)[0]


def test_nodes_that_are_to_be_avoided(quiet: OarCluster, tmp_path: Path) -> None:
    """It goes where it may, and is refused where there is no such node."""
    options = {"job_extra_directives": ["-p 'core = 1 or core = 2'"]}
    for number in (2, 3):
        quiet.sql(
            "insert into resources (network_address, cpuset, core, gpu) "
            f"select 'node{number}.site', slot, slot, 0 from generate_series(1, 4) slot"
        )
    try:
        without = {"exclude_nodes": ["node1.org", "node2"]}
        run = ended(submit_noting(tmp_path, 2, config(options, n_shards=2) | without))
        assert run.collect() == locally(tmp_path, 2)
        ids = ",".join(job.job_id for job in jobs(run).jobs)
        used = quiet.sql(
            "select distinct network_address, core in (1, 2) from jobs "
            "join assigned_resources on moldable_job_id = assigned_moldable_job "
            f"join resources using (resource_id) where array_id in ({ids})"
        )
        assert used == "node3.site|t"
    finally:
        quiet.reset()
        place = "network_address like 'node_.site'"
        told = f"select resource_id from resources where {place}"
        quiet.sql(f"delete from assigned_resources where resource_id in ({told})")
        quiet.sql(f"delete from resources where {place}")
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(SubmissionRefused, match="There are not enough resources"):
        submit_noting(other, 2, config(options, n_shards=2) | without)


def test_what_oar_says_of_a_request_that_it_cannot_fulfil(
    quiet: OarCluster, tmp_path: Path
) -> None:
    options = {"resource_spec": "/nodes=1/core=99"}
    with pytest.raises(SubmissionRefused, match="There are not enough resources"):
        submit_noting(tmp_path, 2, config(options, n_shards=2))
