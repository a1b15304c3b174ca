"""What befalls workers that claim their shards: real processes, real signals, a storage that fails.

The tables and interleavings of the rules are in tests/unit/worker and tests/chaos.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.specs.models import WorkerState, decode
from tests.support.faulty_store import Faults, Rule, faults_environment, injected
from tests.support.helpers import (
    attempts,
    causes,
    ended,
    kill_all,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED, Deadly, Workshop

LEASE = 4.0  # seconds


def config(n_shards: int, **keys: Any) -> Any:
    quick: dict[str, Any] = {"n_workers": 2, "preflight": False, "checkpoint_every": 0.1}
    shared = {"schedule": "dynamic", "lease": LEASE, "heartbeat": 0.5}
    return parallel("local", n_shards=n_shards, **{**quick, **shared, **keys})


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    yield
    (tmp_path / GATE).touch()
    kill_all(Run(tmp_path / "run"))


def signs(run: Run) -> list[WorkerState]:
    """The last sign of life of each worker."""
    files = Path(run.run_dir, layout.WORKERS).glob("*.json")
    return [decode(WorkerState, file.read_bytes(), str(file)) for file in files]


def at(run: Run, rank: int) -> list[WorkerState]:
    """The workers that are at a shard, as far as they have said."""
    return [state for state in signs(run) if state.rank == rank and not state.ended]


def join(run: Run, **environ: str) -> subprocess.Popen[bytes]:
    """Start a worker that joins."""
    words = [sys.executable, "-m", "espnet3", "work", run.run_dir]
    return subprocess.Popen(words, env={**os.environ, **environ})


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_workers_start_at_once(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 200, config(200, n_workers=100, lease=60.0, heartbeat=10.0))
    ended(run, 250)
    assert states(run) == dict.fromkeys(range(200), "done")
    assert noted(tmp_path, "begun") == noted(tmp_path, "finished") == once(range(200))
    assert run.collect(patience=0) == locally(tmp_path, 200)
    assert len({state.worker for state in signs(run)}) > 10  # the rest came when all was done


def test_a_shard_that_kills_is_named_and_the_rest_is_done(tmp_path: Path) -> None:
    runner = Deadly(Workshop({"folder": str(tmp_path)}))
    run = submit_run(runner, range(12), run_dir=tmp_path / "run", parallel=config(6, n_workers=5))
    ended(run)
    assert states(run) == {**dict.fromkeys(range(6), "done"), 1: "failed"}
    assert causes(run)[1] == "3 workers ended at it without a word"
    assert noted(tmp_path, "begun")[3] == 3
    assert len(attempts(run, 1, "failed")) == 1
    (tmp_path / MENDED).touch()
    assert run.resume().ranks == [1]
    assert ended(run).collect(patience=0) == [*range(12)]


def test_a_frozen_worker_loses_its_shard_and_wakes_up(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, config(1, n_workers=1), gated=[2])
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    wait_for(lambda: [state.position for state in at(run, 0)] == [2], "no sign was given")
    [frozen] = at(run, 0)
    os.kill(frozen.process.pid, signal.SIGSTOP)
    try:
        with join(run) as joined:
            wait_for(lambda: noted(tmp_path, "begun")[2] == 2, "nobody takes over")
            (tmp_path / GATE).touch()
            assert joined.wait(100) == 0
        assert states(run) == {0: "done"}
    finally:
        os.kill(frozen.process.pid, signal.SIGCONT)
    wait_for(lambda: processes_of(run) == [], "it does not end")
    assert run.collect(patience=0) == locally(tmp_path, 4)
    assert noted(tmp_path, "begun")[0] == noted(tmp_path, "begun")[1] == 1
    assert noted(tmp_path, "begun")[3] <= 2  # the waked one may have been at it, and lost


@pytest.mark.parametrize("error", ["ESTALE", "EIO"])
def test_signs_of_life_that_the_storage_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    """A sign is a hint: the work goes on, and others wait for what they cannot see alive."""
    log = tmp_path / "faults"
    rules = [Rule("create", f"{layout.WORKERS}/", error, times=-1)]
    faults = Faults(rules=rules, root=str(tmp_path / "run"), log=str(log))
    for name, value in faults_environment(faults).items():
        monkeypatch.setenv(name, value)
    run = submit_noting(tmp_path, 20, config(4))
    ended(run)
    assert injected(log)
    assert states(run) == dict.fromkeys(range(4), "done")
    assert noted(tmp_path, "finished") == once(range(20))
    assert run.collect(patience=0) == locally(tmp_path, 20)


def test_workers_that_die_one_after_the_other(tmp_path: Path) -> None:
    """Each goes on where the last one was; nothing durable is computed again."""
    run = submit_noting(tmp_path, 8, config(1, n_workers=1), gated=[2])
    wait_for(lambda: lines_kept(run, 0) == 2, "no checkpoint was made")
    kill_all(run)
    with join(run) as joined:
        wait_for(lambda: noted(tmp_path, "begun")[2] == 2, "nobody goes on")
        kill_all(run)
    assert joined.returncode != 0
    (tmp_path / GATE).touch()
    with join(run) as last:
        assert last.wait(100) == 0
    assert run.collect(patience=0) == locally(tmp_path, 8)
    assert noted(tmp_path, "begun") == once([*range(8), 2, 2])


def test_two_join_at_once_what_nobody_is_at(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 40, config(40, n_workers=1), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun")[0], "it does not run")
    both = [join(run), join(run)]
    wait_for(lambda: sum(noted(tmp_path, "finished").values()) == 39, "they do not share")
    (tmp_path / GATE).touch()
    assert [process.wait(100) for process in both] == [0, 0]
    ended(run)
    assert noted(tmp_path, "begun") == once(range(40))
    assert run.collect(patience=0) == locally(tmp_path, 40)
