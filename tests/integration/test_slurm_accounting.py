"""A Slurm with accounting: what its queue has forgotten, sacct still knows.

And other clusters: only sites with accounting know any, so they are here too.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from tests.support.debian import require
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    jobs,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    states,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.runners import GATE
from tests.support.slurm_accounting import ACCOUNTING_PROGRAMS, AccountingCluster
from tests.support.slurm_fixtures import talking_to

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(slurm_packages: None) -> Iterator[AccountingCluster]:
    """A cluster of two nodes whose queue forgets ended jobs within seconds."""
    require("Slurm's accounting", ACCOUNTING_PROGRAMS)
    config = {"MinJobAge": 2}
    temporary = tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)
    with temporary as folder, AccountingCluster(folder, nodes=2, config=config) as started:
        yield started


@pytest.fixture(autouse=True)
def _environment(cluster: AccountingCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with talking_to(cluster, monkeypatch):
        yield


def _run(folder: Path, name: str, gated: list[int], **options: Any) -> tuple[Run, Path]:
    """A run of one shard of four items, in a folder of its own."""
    mine = folder / name
    mine.mkdir()
    config = parallel(n_shards=1, checkpoint_every=0.05, options=options)
    return submit_noting(mine, 4, config, gated=gated), mine


def test_causes_that_only_accounting_remembers(cluster: AccountingCluster, tmp_path: Path) -> None:
    killed, _ = _run(tmp_path, "killed", [2])
    cancelled, _ = _run(tmp_path, "cancelled", [], job_extra_directives=["--hold"])
    failed_node, _ = _run(tmp_path, "node", [2], job_extra_directives=["--no-requeue", "-w node2"])
    runs = [killed, cancelled, failed_node]
    for run in (killed, failed_node):
        wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")  # noqa: B023 (at once)
    ids = [jobs(run).jobs[0].job_id for run in runs]
    os.kill(attempts(killed, 0, "started")[0].pid, signal.SIGKILL)
    cluster.run("scancel", ids[1])
    cluster.run("scontrol", "update", "NodeName=node2", "State=DOWN", "Reason=test")
    for run in runs:
        ended(run)
    wait_for(lambda: cluster.jobs("--states=all") == [], "the queue remembers")
    [dead] = attempts(killed, 0)
    silent = f"attempt {dead.attempt} on {dead.host} ended without a word"
    expected = {
        killed: ("interrupted",
                 f"killed by SIGKILL, often for want of memory, {silent}, job {ids[0]}"),
        cancelled: ("interrupted", f"cancelled, job {ids[1]}, by user 0"),
        failed_node: ("interrupted", "node failed, signal SIGTERM, 2 items done"),
    }  # fmt: skip
    for run, (state, cause) in expected.items():
        wait_for(lambda: causes(run) == {0: cause}, f"not told: {cause}", 20)  # noqa: B023 (at once)
        assert states(run) == {0: state}

    # Without its answer the same jobs are lost, and nothing worse.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", wrap(tmp_path, "sacct", "exit 1"))
        assert states(killed) == states(cancelled) == {0: "lost"}
        assert causes(failed_node) == {0: "signal SIGTERM, 2 items done"}

    cluster.reset()
    for run in runs:
        folder = Path(run.run_dir).parent
        (folder / GATE).touch()
        run.resume(options={"job_extra_directives": []})
    for run in runs:
        folder = Path(run.run_dir).parent
        ended(run)
        assert run.collect() == locally(folder, 4)
        assert noted(folder, "finished") == once(range(4))


@pytest.mark.skipif(
    os.environ.get("ESPNET3_LONG_TESTS") != "1",
    reason="the shortest time limit is a minute; ESPNET3_LONG_TESTS=1 runs it",
)
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_time_limit_that_only_accounting_remembers(
    cluster: AccountingCluster, tmp_path: Path
) -> None:
    run, folder = _run(tmp_path, "limited", [2], walltime="00:01:00")
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    ended(run, 200)
    wait_for(lambda: cluster.jobs("--states=all") == [], "the queue remembers")
    assert causes(run) == {0: "time limit, signal SIGTERM, 2 items done"}
    (folder / GATE).touch()
    run.resume()
    assert ended(run).collect() == locally(folder, 4)


def test_a_job_of_a_named_cluster(cluster: AccountingCluster, tmp_path: Path) -> None:
    """With --clusters the answer is "id;cluster", and every later question names the cluster."""
    directives = [f"--clusters={cluster.name}"]
    run, folder = _run(tmp_path, "named", [2], job_extra_directives=directives)
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    [job] = jobs(run).jobs
    name = job.job_id.partition(";")[2]
    assert name == cluster.name
    assert states(run) == {0: "running"}
    assert run.resume().ranks == []
    assert run.cancel() == [job.job_id]
    ended(run)
    assert causes(run) == {0: "cancelled, signal SIGTERM, 2 items done"}
    (folder / GATE).touch()
    again = _resumed_without_an_answer(run, tmp_path)
    ended(run)
    assert again.partition(";")[2] == cluster.name
    assert run.collect() == locally(folder, 4)
    assert noted(folder, "begun") == once([*range(4), 2])


def _resumed_without_an_answer(run: Run, folder: Path) -> str:
    """Resume where sbatch loses its answer, and the queue of this cluster does not show the job."""
    with pytest.MonkeyPatch.context() as patch:
        wrap(folder, "sbatch", '"$real" "$@" >/dev/null; echo "Socket timed out" >&2; exit 1')
        nothing = 'case "$*" in *clusters*) exec "$real" "$@";; *) exit 0;; esac'
        patch.setenv("PATH", wrap(folder, "squeue", nothing))
        submitted = run.resume()
    [job_id] = submitted.job_ids
    return job_id
