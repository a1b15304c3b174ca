"""The supervisor of `env: local`: short of processes, ended, and what is said of the rest."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run
from espnet3.submit.launcher import Rendered
from espnet3.submit.local_launcher import LocalLauncher
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    files_of,
    jobs,
    locally,
    noted,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE

pytestmark = pytest.mark.usefixtures("gate_opens_at_last")

IMPATIENT = """
import sys
from espnet3.worker import supervisor
supervisor.PATIENCE = 0.0
sys.exit(supervisor.main(sys.argv[2:]))
"""


def _short_of_descriptors(run: Run) -> tuple[int, tuple[int, int]]:
    """Let the supervisor of a run make no pipe and open no file; its pid and its limits before."""
    pid = int(jobs(run).jobs[0].job_id)
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (5, before[1]))
    return pid, before


def _said(run: Run) -> str:
    log = Path(run.run_dir, "logs", "0001-0.supervisor.log")
    return log.read_text() if log.exists() else ""


def test_what_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel("local", n_workers=1, n_shards=4), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    pid, limits = _short_of_descriptors(run)
    (tmp_path / GATE).touch()
    wait_for(lambda: "task 1 cannot be started yet" in _said(run), "nothing is said")
    assert states(run) == {0: "done", 1: "queued", 2: "queued", 3: "queued"}
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    ended(run)
    assert run.collect() == locally(tmp_path, 4)


def test_a_supervisor_that_gives_up_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = LocalLauncher.render

    async def impatient(self: LocalLauncher, *args: Any) -> Rendered:
        python, _, _, *words = (await render(self, *args)).command
        return Rendered("", [python, "-P", "-c", IMPATIENT, *words])

    monkeypatch.setattr(LocalLauncher, "render", impatient)
    run = submit_noting(tmp_path, 3, parallel("local", n_workers=1, n_shards=3), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    _short_of_descriptors(run)
    (tmp_path / GATE).touch()
    ended(run)
    assert states(run) == {0: "done", 1: "lost", 2: "lost"}
    assert causes(run)[1].startswith("its task was never started, job ")
    assert "gave up: OSError: [Errno 24] Too many open files" in causes(run)[2]
    [log] = run.logs(2)
    assert log.endswith("/logs/0001-0.supervisor.log")
    assert run.resume().ranks == [1, 2]
    ended(run)
    assert run.collect() == locally(tmp_path, 3)


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP", "SIGXCPU", "SIGKILL"])
def test_a_supervisor_that_a_signal_ends(tmp_path: Path, name: str) -> None:
    run = submit_noting(tmp_path, 2, parallel("local", n_workers=1, n_shards=2), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    [job] = jobs(run).jobs
    os.kill(int(job.job_id), signal.Signals[name])
    (tmp_path / GATE).touch()
    ended(run)
    wait_for(lambda: not processes_of(run), "the supervisor lives on")
    said = f"its task was never started, job {job.job_id}_1, "
    said += "the supervisor of its submission has ended"
    if name == "SIGKILL":
        assert causes(run)[1] == said
    else:
        assert causes(run)[1].startswith(said)
        assert causes(run)[1].endswith(f"ended by {name}")


@pytest.mark.parametrize(
    ("name", "state", "words"),
    [
        ("SIGKILL", "interrupted", "killed by SIGKILL, often for want of memory, "),
        ("SIGSEGV", "lost", "crashed by SIGSEGV, "),
        ("SIGABRT", "lost", "crashed by SIGABRT, "),
    ],
)
def test_a_worker_that_a_signal_kills(tmp_path: Path, name: str, state: str, words: str) -> None:
    run = submit_noting(tmp_path, 3, parallel("local", n_workers=2, n_shards=3), gated=[0, 1])
    wait_for(lambda: len(noted(tmp_path, "begun")) == 2, "ranks 0 and 1 do not run")
    [started] = attempts(run, 1, "started")
    os.kill(started.pid, signal.Signals[name])
    wait_for(lambda: states(run)[1] == state, f"{name} is not told: {causes(run)[1]}")
    silent = f"attempt {started.attempt} on {started.host} ended without a word, "
    assert causes(run)[1].startswith(words + silent)
    (tmp_path / GATE).touch()
    ended(run)
    number = int(signal.Signals[name])
    assert _said(run).endswith(f" task 1 was killed by signal {number} ({name})\n")
    assert _said(run).split()[1].endswith("+0000")  # the zone of its time
    assert run.resume().ranks == [1]
    ended(run)
    assert run.collect() == locally(tmp_path, 3)


def test_a_real_time_signal_has_no_name(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 1, parallel("local", n_workers=1, n_shards=1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    number = signal.SIGRTMIN + 3
    os.kill(attempts(run, 0, "started")[0].pid, number)
    wait_for(lambda: causes(run)[0].endswith(f", signal {number}"), "it is not told")
    assert states(run) == {0: "lost"}


def test_a_killed_worker_is_not_why_others_were_never_started(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 3, parallel("local", n_workers=1, n_shards=3), gated=[0, 1])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    os.kill(attempts(run, 0, "started")[0].pid, signal.SIGKILL)
    wait_for(lambda: noted(tmp_path, "begun")[1], "rank 1 does not run")
    [job] = jobs(run).jobs
    os.kill(int(job.job_id), signal.SIGKILL)
    (tmp_path / GATE).touch()
    ended(run)
    assert causes(run)[2].endswith(", the supervisor of its submission has ended")


def test_a_cancelled_one_has_nothing_to_say(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, parallel("local", n_workers=1, n_shards=2), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "rank 0 does not run")
    run.cancel()
    ended(run)
    wait_for(lambda: not processes_of(run), "the supervisor lives on")
    assert causes(run)[1] == "cancelled"
    assert files_of(Path(run.run_dir, "logs")) == {"0001-0.0.log"}
