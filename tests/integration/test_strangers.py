"""Jobs and processes of others: none is taken for a run's own, and none is stopped for it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import Untrusted, UsageError
from espnet3.run import Run
from espnet3.run_dir.processes import is_alive, this_process, this_user
from espnet3.schedulers import get_scheduler, known_schedulers
from espnet3.schedulers.ownership import is_own_job
from espnet3.schedulers.qsub import name_digest
from espnet3.specs import layout
from espnet3.specs.models import ProcessIdentity, RunSpec, decode
from tests.support.asking import entry
from tests.support.helpers import (
    ended,
    jobs,
    kill_all,
    noted,
    once,
    parallel,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster

STRANGER = 54321  # nobody on this host
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
Decoy = Callable[..., int]


@pytest.fixture
def decoy() -> Iterator[Decoy]:
    """Starts processes of another user that have some words on their command lines."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*words: str, user: int = STRANGER) -> int:
        process = subprocess.Popen(
            ["setpriv", f"--reuid={user}", "--clear-groups", "sh", "-c", "echo; sleep 600; :",
             *words],
            cwd="/", start_new_session=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # it is the shell by now
        return process.pid

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a record, as whoever owns the directory could."""
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def killed(folder: Path) -> Run:
    """A run of two shards on this host whose supervisor and worker were killed."""
    run = submit_noting(folder, 2, parallel("local", n_workers=1, n_shards=2), gated=[0, 1])
    wait_for(lambda: noted(folder, "begun") == once([0]), "no shard runs")
    kill_all(run)
    return run


@as_root
def test_words_of_another_users_process_are_not_a_task(tmp_path: Path, decoy: Decoy) -> None:
    run = killed(tmp_path)
    assert states(run) == {0: "lost", 1: "lost"}
    name = submission(run).jobs[0].name
    pids = [
        decoy("espnet3.worker.supervisor", "--job", name),
        decoy("espnet3.worker", "--job", name, "--task", "0"),
    ]
    assert states(run) == {0: "lost", 1: "lost"}
    assert run.cancel() == []
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1]
    assert ended(run).status().done
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)


@as_root
def test_words_of_another_users_process_are_no_submit_command(tmp_path: Path, decoy: Decoy) -> None:
    intent = submission(killed(tmp_path)).model_copy(update={"scheduler": "slurm"})
    scheduler = get_scheduler("slurm")
    decoy("sbatch", f"--job-name={intent.jobs[0].name}")
    assert not scheduler.is_submitting(intent)
    decoy("sbatch", f"--job-name={intent.jobs[0].name}", user=os.geteuid())
    assert scheduler.is_submitting(intent)


@as_root
def test_a_process_of_another_user_is_none_of_ours(decoy: Decoy) -> None:
    import psutil

    pid = decoy()
    me = this_process()
    assert is_alive(me)
    seen = ProcessIdentity(host=me.host, pid=pid, started=psutil.Process(pid).create_time(),
                           user=me.user)  # fmt: skip
    assert is_alive(seen) is False
    ours = decoy(user=os.geteuid())
    started = psutil.Process(ours).create_time()
    assert is_alive(seen.model_copy(update={"pid": ours, "started": started}))


def test_a_user_is_who_it_is_and_not_what_a_variable_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_user()
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert this_user() == before


def test_a_directory_cannot_name_another_runs_processes(tmp_path: Path) -> None:
    """A run of one's own, and beside it one whose records hold the names of its jobs."""
    (tmp_path / "bait").mkdir()
    victim = submit_noting(tmp_path, 2, parallel("local", n_workers=1, n_shards=2), gated=[0, 1])
    wait_for(lambda: noted(tmp_path, "begun") == once([0]), "no shard runs")
    bait = submit_noting(tmp_path / "bait", 2, parallel("local", n_shards=1))
    folder = Path(ended(bait).run_dir)
    name = submission(victim).jobs[0].name
    (folder / "receipts/000000.json").unlink()
    edit(folder / layout.submission(1), lambda raw: raw["jobs"][0].update(name=name))
    for recorded in (True, False):
        edit(folder / layout.accepted_jobs(1), lambda raw: raw["jobs"][0].update(name=name))
        if not recorded:
            (folder / layout.accepted_jobs(1)).unlink()
        with pytest.raises(
            UsageError, match=f"{name}.* is not a job of run .* nothing is cancelled"
        ):
            bait.cancel()
    assert not (folder / layout.cancellation(1)).exists()
    assert states(victim)[0] == "running"
    (tmp_path / GATE).touch()
    assert ended(victim).status().done


@as_root
def test_cancel_believes_no_strangers_directory(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 1, parallel("local", n_shards=1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun") == once([0]), "no shard runs")
    record = Path(run.run_dir, layout.accepted_jobs(1))
    os.chown(record, STRANGER, STRANGER)
    with pytest.raises(Untrusted, match=f"{record} is not to be trusted: belongs to user"):
        run.cancel()
    assert states(run) == {0: "running"}
    os.chown(record, 0, 0)
    assert run.cancel()
    assert states(ended(run)) == {0: "interrupted"}


def test_a_record_cannot_name_another_slurm_job(slurm: SlurmCluster, tmp_path: Path) -> None:
    """Two jobs, and the record of one holds the id of a job that has nothing to do with it."""
    unrelated = ("--job-name=unrelated", "--output=/dev/null", "--wrap=sleep 600")
    victim = slurm.run("sbatch", "--parsable", *unrelated).stdout.strip()

    def state_of(job_id: str) -> str:
        words = ("--noheader", "--states=all", f"--jobs={job_id}", "--format=%T")
        return slurm.run("squeue", *words).stdout.strip()

    try:
        config = parallel(n_workers=2, n_shards=2, job_array=False)
        run = submit_noting(tmp_path, 2, config, gated=[0, 1])
        wait_for(lambda: noted(tmp_path, "begun") == once([0, 1]), "they do not run")
        first, second = jobs(run).jobs
        edit(Path(run.run_dir, layout.accepted_jobs(1)),
             lambda raw: raw["jobs"][1].update(job_id=victim))  # fmt: skip
        assert run.cancel() == [first.job_id, second.job_id]  # found by its name
        for job in (first, second):
            wait_for(lambda job=job: state_of(job.job_id) == "CANCELLED", "it is not cancelled")  # type: ignore[misc]
        assert state_of(victim) in ("PENDING", "RUNNING")
        edit(Path(run.run_dir, layout.submission(1)),
             lambda raw: raw["jobs"][1].update(name="unrelated"))  # fmt: skip
        Path(run.run_dir, layout.accepted_jobs(1)).unlink()
        with pytest.raises(UsageError, match="'unrelated' is not a job of run"):
            run.cancel()
        assert state_of(victim) in ("PENDING", "RUNNING")
    finally:
        slurm.run("scancel", victim)


@pytest.mark.parametrize("env", known_schedulers())
@pytest.mark.parametrize("job_name", ["", "my train"])
def test_which_names_are_of_a_run(env: str, job_name: str) -> None:
    """Where names are too short for the run's id, its digest has to be that run's."""
    fixture = Path(__file__).parents[1] / "fixtures/v1/resumed/run.json"
    run = decode(RunSpec, fixture.read_bytes(), "run.json")
    prefix = job_name or run.runner.qualname
    names = [get_scheduler(env).unique_name(prefix, run.run_id, 1, j) for j in range(2)]
    foreign = get_scheduler(env).unique_name(prefix, "d9cf3a5b7e11", 1, 2)
    known = entry(*((name, 1, None) for name in (*names, foreign, "train")), scheduler=env)
    options: dict[str, Any] = {"job_name": job_name}
    submission = known.submission.model_copy(update={"options": options})
    assert [is_own_job(run, submission, j) for j in range(4)] == [True, True, False, False]


def test_short_names_of_earlier_versions_are_known() -> None:
    fixture = Path(__file__).parents[1] / "fixtures/v1/resumed/run.json"
    run = decode(RunSpec, fixture.read_bytes(), "run.json")
    name = f"esp_{name_digest(f'espnet3-{run.run_id}-0001-0', 11)}"
    known = entry((name, 1, None), scheduler="pbs")
    assert is_own_job(run, known.submission, 0)


def test_a_copy_is_still_told_from_the_original(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 1, parallel("local", n_shards=1)))
    shutil.copytree(run.run_dir, tmp_path / "copy")
    with pytest.raises(UsageError, match="is a copy of"):
        Run(tmp_path / "copy").cancel()
