"""What is peculiar to SGE, on a real one: requeueing, error states, limits, a lost qmaster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import SchedulerUnavailable, SubmissionRefused
from espnet3.run import submit_run
from espnet3.schedulers import get_scheduler
from tests.support.helpers import (
    TINY,
    attempts,
    causes,
    ended,
    jobs,
    locally,
    noted,
    once,
    parallel,
    states,
    submission,
    submit_noting,
    wait_for,
    wrap,
)
from tests.support.runners import GATE, Echo, Shell
from tests.support.sge_cluster import SgeCluster
from tests.support.sites.sge import SgeSite


@pytest.fixture
def sge(sge_cluster: SgeCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[SgeCluster]:
    """The session's cluster, empty, and with the commands' variables pointing to it."""
    for name, value in sge_cluster.env.items():
        monkeypatch.setenv(name, value)
    yield sge_cluster
    sge_cluster.reset()


def config(options: dict[str, Any] | None = None, **keys: Any) -> Any:
    return parallel("sge", options={**TINY, **(options or {})}, **keys)


def directives(*lines: str) -> dict[str, Any]:
    return {"job_extra_directives": [*lines]}


def elsewhere(folder: Path, name: str) -> Path:
    """A folder for another run."""
    (folder / name).mkdir()
    return folder / name


def begun(folder: Path, *items: int) -> None:
    """Wait until these items have begun."""
    wait_for(lambda: set(items) <= noted(folder, "begun").keys(), f"{items} have not begun")


def test_qdel_lets_a_worker_say_that_it_was_interrupted(sge: SgeCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, config(n_shards=2), gated=[0, 1])
    begun(tmp_path, 0, 1)
    [job] = jobs(run).jobs
    sge.run("qdel", f"{job.job_id}.2")
    wait_for(lambda: states(run) == {0: "running", 1: "interrupted"}, "it is not interrupted")
    [last] = attempts(run, 1, "interrupted")
    assert last.cause == "signal SIGUSR2"
    (tmp_path / GATE).touch()
    assert ended(run).resume().ranks == [1]
    assert ended(run).collect() == locally(tmp_path, 2)


def test_the_time_limit(sge: SgeCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 1, config({"walltime": "0:0:4"}, n_shards=1), gated=[0])
    assert states(ended(run)) == {0: "interrupted"}
    assert causes(run)[0].startswith("time limit, signal SIGUSR2"), causes(run)
    (tmp_path / GATE).touch()
    run.resume(options={"walltime": "01:00"})  # a minute; SGE itself wants three numbers
    assert ended(run).collect() == locally(tmp_path, 1)


def test_a_worker_that_is_killed_at_once(sge: SgeCluster, tmp_path: Path) -> None:
    """Only accounting knows how it ended."""
    run = submit_noting(tmp_path, 1, config(n_shards=1), gated=[0])
    begun(tmp_path, 0)
    [started] = attempts(run, 0, "started")
    os.kill(started.pid, signal.SIGKILL)
    wait_for(lambda: states(run) == {0: "interrupted"}, "its end is not known")
    assert causes(run)[0].startswith("killed by SIGKILL, "), causes(run)


def test_exit_code_99_starts_a_task_again(sge: SgeCluster, tmp_path: Path) -> None:
    prologue = [f'[ "$RESTARTED" = 0 ] && touch {tmp_path}/first && exit 99']
    run = submit_noting(tmp_path, 2, config({"job_script_prologue": prologue}, n_shards=1))
    assert ended(run).collect() == locally(tmp_path, 2)
    assert (tmp_path / "first").exists()
    assert noted(tmp_path, "begun") == once(range(2))
    assert len(attempts(run, 0, "started")) == 1


def test_a_task_that_was_begun_is_requeued(sge: SgeCluster, tmp_path: Path) -> None:
    """What its first attempt kept is not computed again."""
    keys = {"n_shards": 1, "checkpoint_every": 0.05}
    run = submit_noting(tmp_path, 4, config(directives("-r y"), **keys), gated=[2])
    begun(tmp_path, 2)
    [job] = jobs(run).jobs
    sge.run("qmod", "-rj", job.job_id)
    wait_for(lambda: len(attempts(run, 0, "started")) == 2, "it is not started again")
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "finished") == once(range(4))


def test_an_error_state_is_told_and_can_be_left(sge: SgeCluster, tmp_path: Path) -> None:
    prologue = [f"[ -e {tmp_path}/{GATE} ] || exit 100"]
    run = submit_noting(tmp_path, 2, config({"job_script_prologue": prologue}, n_shards=2))
    [job] = jobs(run).jobs
    wait_for(lambda: all("error state" in c for c in causes(run).values()), "no error state")
    assert set(states(run).values()) == {"queued"}
    again = f"in an error state, `qmod -cj {job.job_id}` lets it start again (Eqw)"
    assert causes(run)[1] == f"job {job.job_id}.2, {again}: exit_status of job start = 100"
    (tmp_path / GATE).touch()
    sge.run("qmod", "-cj", job.job_id, check=False)  # its exit code is 1 for arrays
    assert ended(run).collect() == locally(tmp_path, 2)


def test_an_error_state_can_be_cancelled(sge: SgeCluster, tmp_path: Path) -> None:
    prologue = ["exit 100"]
    run = submit_noting(tmp_path, 2, config({"job_script_prologue": prologue}, n_shards=1))
    wait_for(lambda: "error state" in causes(run)[0], "no error state")
    assert run.cancel() == [jobs(run).jobs[0].job_id]
    assert states(ended(run)) == {0: "interrupted"}
    assert causes(run)[0].startswith("cancelled"), causes(run)


def test_jobs_that_are_held_or_wait_for_others(sge: SgeCluster, tmp_path: Path) -> None:
    other = sge.run("qsub", "-terse", "-h", "-b", "y", "true").stdout.strip()
    held = submit_noting(elsewhere(tmp_path, "a"), 1, config(directives("-h"), n_shards=1))
    after = directives(f"-hold_jid {other}")
    waits = submit_noting(elsewhere(tmp_path, "b"), 1, config(after, n_shards=1))
    [job] = jobs(held).jobs
    assert f"held, `qrls {job.job_id}` lets it start (hqw)" in causes(held)[0]
    assert f"waits for job {other} (hqw)" in causes(waits)[0]


@pytest.mark.parametrize("everything", [True, False])
def test_variables_of_an_enclosing_job_with_and_without_v(
    sge: SgeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, everything: bool
) -> None:
    """-V would even replace what SGE sets; what was set in Python, a worker takes over itself."""
    for name, value in {**SgeSite.leaked, "OF_THE_USER": "a b,c"}.items():
        monkeypatch.setenv(name, value)
    names = [*SgeSite.leaked, "OF_THE_USER"]
    options = directives("-V") if everything else {}
    run = submit_run(Echo(Shell({})), names, run_dir=tmp_path / "run",
                     parallel=config(options, n_shards=1))  # fmt: skip
    seen = dict(zip(names, ended(run).collect(), strict=True))
    [job] = jobs(run).jobs
    assert seen == {
        "SGE_TASK_ID": "1", "JOB_ID": job.job_id, "RESTARTED": "0", "QUEUE": "all.q",
        "SGE_LEAKED": None, "OF_THE_USER": "a b,c",
    }  # fmt: skip


def test_a_gpu_is_a_resource(sge: SgeCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 1, config({"resource_spec": "gpu=1"}, n_shards=1), gated=[0])
    begun(tmp_path, 0)
    [job] = jobs(run).jobs
    assert re.search(r"^hard resource_list:.*\bgpu=1\b", _shown(sge, job.job_id), re.M)
    with pytest.raises(SubmissionRefused, match="no suitable queues"):
        submit_noting(
            elsewhere(tmp_path, "b"), 1,
            config({"resource_spec": "gpu=9", **directives("-w e")}, n_shards=1),
        )  # fmt: skip


def test_cores_are_a_parallel_environment(sge: SgeCluster, tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 1, config(directives("-pe smp 4"), n_shards=1), gated=[0])
    begun(tmp_path, 0)
    [job] = jobs(run).jobs
    assert re.search(r"^parallel environment:\s+smp range: 4", _shown(sge, job.job_id), re.M)


def _shown(sge: SgeCluster, job_id: str) -> str:
    return sge.run("qstat", "-j", job_id).stdout


async def test_the_site_is_asked(sge: SgeCluster) -> None:
    scheduler = get_scheduler("sge")
    assert await scheduler.max_array_size() == 75000
    assert await scheduler.version() == "SGE 8.1.9"


def test_a_task_that_qstat_passes_over(
    sge: SgeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for again."""
    run = submit_noting(tmp_path, 2, config(n_shards=2), gated=[0, 1])
    begun(tmp_path, 0, 1)
    first = f"if mkdir '{tmp_path}/looked' 2>/dev/null"
    without = "sed '/<job_list/,/<\\/job_list>/d'"
    with monkeypatch.context() as patch:
        script = f'{first}; then "$real" "$@" | {without}; else exec "$real" "$@"; fi'
        patch.setenv("PATH", wrap(tmp_path, "qstat", script))
        assert states(run) == {0: "running", 1: "running"}
    assert (tmp_path / "looked").is_dir()
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 2)


def test_a_task_that_no_queue_could_run_now(sge: SgeCluster, tmp_path: Path) -> None:
    """`qstat -q` hides it; it is queued all the same, and found by its name."""
    run = submit_noting(tmp_path, 2, config({"resource_spec": "mem_free=900T"}, n_shards=2))
    assert states(run) == {0: "queued", 1: "queued"}, causes(run)
    assert run.resume().ranks == []
    [job] = jobs(run).jobs
    planned = submission(run).jobs
    found = asyncio.run(get_scheduler("sge").find(planned, submission(run).submitter.user))
    assert found == [job]
    assert run.cancel() == [job.job_id]
    ended(run)


def test_a_lost_qmaster(sge: SgeCluster, tmp_path: Path) -> None:
    """Nothing is known then, what runs goes on, and all is known again when it is back."""
    run = submit_noting(tmp_path, 4, config(n_shards=2, n_workers=1), gated=[0, 1])
    begun(tmp_path, 0)
    sge.stop_qmaster()
    try:
        seen = run.status()
        assert seen.scheduler_problem is not None
        assert "unable to" in seen.scheduler_problem
        assert {shard.rank: shard.state for shard in seen.shards} == {0: "running", 1: "queued"}
        assert all("the scheduler does not answer" in shard.cause for shard in seen.shards)
        for action in (run.cancel, run.resume):
            with pytest.raises(SchedulerUnavailable, match="unable to"):
                action()
        with pytest.raises(SchedulerUnavailable, match="unable to"):
            submit_noting(elsewhere(tmp_path, "b"), 1, config(n_shards=1))
        (tmp_path / GATE).touch()
        wait_for(lambda: states(run)[0] == "done", "what runs does not go on")
    finally:
        sge.start_qmaster()
    assert ended(run).collect() == locally(tmp_path, 4)
    assert noted(tmp_path, "begun") == once(range(4))


def test_variables_that_look_like_what_qstat_tells(
    sge: SgeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a job's environment holds, its errors and whom it waits for are told by SGE."""
    lines = ["x", "=" * 62, "job_number:                 1", "error reason    1:          forged",
             "jid_predecessor_list:       77", "scheduling info:            forged"]  # fmt: skip
    monkeypatch.setenv("FORGED", "\n".join(lines))
    options = {**SgeSite.options, "job_extra_directives": ["-v FORGED", "-h"]}
    run = submit_noting(tmp_path, 1, parallel("sge", n_shards=1, options=options))
    [job] = jobs(run).jobs
    details = sge.run("qstat", "-j", job.job_id).stdout
    assert "forged" in details, details
    assert causes(run) == {0: f"job {job.job_id}, held, `qrls {job.job_id}` lets it start (hqw)"}
    assert "forged" not in asyncio.run(get_scheduler("sge").reasons([job.job_id]))
    sge.run("qrls", job.job_id)
    assert ended(run).collect() == locally(tmp_path, 1)
