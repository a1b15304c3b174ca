"""Two live copies of one shard: one receipt, one answer, and the loser says why it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from espnet3.config.model import parse_parallel
from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.specs.items import plan_items
from espnet3.specs.models import encode
from espnet3.storage.opening import open_store
from espnet3.submit.launcher_choice import make_launcher
from espnet3.submit.plan import plan_run
from espnet3.submit.submission import PlannedSubmission, make_submission
from espnet3.submit.submitter import this_submitter
from tests.support.helpers import (
    TINY,
    attempts,
    ended,
    kill_all,
    lines_kept,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    receipt,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED, Helped, Noting, Workshop

WORDS = "another attempt was first; this one's results are not used"
N_ITEMS, GATED = 4, 1


@pytest.fixture(autouse=True)
def _nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    yield
    (tmp_path / GATE).touch()
    kill_all(Run(tmp_path / "run"))


def written(folder: Path) -> Run:
    """A run of one shard as a submission to Slurm leaves it, on a host without Slurm."""
    store = open_store(folder / "run")
    config = parse_parallel({"env": "slurm", "options": TINY, "checkpoint_every": 0.05})
    runner = Noting(Workshop({"folder": str(folder), "gated": [GATED], "failing": []}))
    plan = plan_run(runner, plan_items(range(N_ITEMS)), config, this_submitter(sys.executable))
    store.prepare(layout.FOLDERS)
    for spec in plan.shards(store.locate(layout.RUN)):
        store.create(layout.shard(spec.rank), encode(spec))
    store.create(layout.RUN, encode(plan.run))
    portion = PlannedSubmission(config, make_launcher(config, Noting), plan_items(range(1)), 1001)
    submission = make_submission(store, plan.run, portion, number=1)
    store.create(layout.submission(1), encode(submission))
    return Run(folder / "run")


def start(run: Run, restarts: int) -> subprocess.Popen[str]:
    """The run's only task, as Slurm starts it; `restarts` is how often it was requeued."""
    environ = {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7", "SLURM_JOB_ID": "7"}
    if restarts:
        environ["SLURM_RESTART_COUNT"] = str(restarts)
    return subprocess.Popen(
        [sys.executable, "-m", "espnet3.worker", run.run_dir, "0001"],
        env={**os.environ, **environ},
        stderr=subprocess.PIPE,
        text=True,
    )


def both(folder: Path) -> tuple[Run, subprocess.Popen[str], subprocess.Popen[str]]:
    """A requeue that left the old copy alive: both are at the gated item."""
    run = written(folder)
    old = start(run, 0)
    wait_for(lambda: noted(folder, "begun")[GATED] == 1, "the old copy does not run")
    new = start(run, 1)
    wait_for(lambda: noted(folder, "begun")[GATED] == 2, "the new copy does not run")
    return run, old, new


@pytest.mark.parametrize("winner", ["old", "new"])
def test_a_requeue_leaves_the_old_copy_alive(tmp_path: Path, winner: str) -> None:
    run, old, new = both(tmp_path)
    first, second = (old, new) if winner == "old" else (new, old)
    second.send_signal(signal.SIGSTOP)
    (tmp_path / GATE).touch()
    _, first_said = first.communicate(timeout=60)
    path = Path(run.run_dir, layout.receipt(0))
    before = path.read_bytes()
    second.send_signal(signal.SIGCONT)
    _, second_said = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0), first_said + second_said
    assert "done, 4 items" in first_said
    assert WORDS in second_said
    assert WORDS not in first_said
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert receipt(run, 0).salvaged == (1 if winner == "new" else 0)
    assert noted(tmp_path, "begun")[0] == 1  # it was durable when the new copy began
    assert run.collect(patience=0) == locally(tmp_path, N_ITEMS)


@pytest.mark.parametrize(("dies", "number"), [("old", signal.SIGKILL), ("new", signal.SIGTERM)])
def test_one_of_two_copies_is_ended(tmp_path: Path, dies: str, number: signal.Signals) -> None:
    run, old, new = both(tmp_path)
    victim, other = (old, new) if dies == "old" else (new, old)
    victim.send_signal(number)
    victim.communicate(timeout=60)
    (tmp_path / GATE).touch()
    _, said = other.communicate(timeout=60)
    assert other.returncode == 0, said
    assert states(run) == {0: "done"}
    assert len(attempts(run, 0, "interrupted")) == (number == signal.SIGTERM)
    assert noted(tmp_path, "begun")[0] == 1
    assert run.collect(patience=0) == locally(tmp_path, N_ITEMS)


def test_a_forced_resume_while_the_first_attempt_lives(tmp_path: Path) -> None:
    config = parallel("local", n_workers=2, n_shards=2, checkpoint_every=0.05)
    run = submit_noting(tmp_path, 6, config, gated=[1, 4])
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1, 3, 4]), "it does not run")
    assert run.resume(force=True).ranks == [0, 1]
    wait_for(lambda: noted(tmp_path, "begun")[1] == noted(tmp_path, "begun")[4] == 2, "no copies")
    (tmp_path / GATE).touch()
    ended(run)
    wait_for(lambda: not processes_of(run), "a copy lives on")
    assert run.collect(patience=0) == locally(tmp_path, 6)
    begun = noted(tmp_path, "begun")
    assert begun[0] == begun[3] == 1  # what was durable before the copies began
    for rank in (0, 1):
        logs = "".join(Path(file).read_text() for file in run.logs(rank))
        assert logs.count("done, 3 items") == 1
        assert logs.count(WORDS) == 1
    names = sorted(path.name for path in Path(run.run_dir, layout.RECEIPTS).iterdir())
    assert names == ["000000.json", "000001.json"]


@pytest.mark.parametrize("dies", ["worker", "nobody"])
def test_a_forked_helper_is_not_taken_for_its_worker(tmp_path: Path, dies: str) -> None:
    """It has all the words of the worker's command, and may live on after it."""
    provider = Workshop({"folder": str(tmp_path), "gated": [1]})
    config = parallel("local", n_shards=1, checkpoint_every=0.1, preflight=False)
    run = submit_run(Helped(provider), range(3), run_dir=tmp_path / "run", parallel=config)
    try:
        wait_for(lambda: lines_kept(run, 0) == 1, "item 0 does not end")
        [helper] = noted(tmp_path, "helpers")
        worker = psutil.Process(helper).ppid()
        if dies == "worker":
            os.kill(worker, signal.SIGKILL)
            wait_for(lambda: states(run) == {0: "interrupted"}, "its death goes unseen", 20)
        else:
            run.cancel()
            wait_for(lambda: states(run) == {0: "interrupted"}, "it was not the worker", 20)
        assert not psutil.pid_exists(worker)
        (tmp_path / MENDED).touch()
        assert run.resume().ranks == [0]
        assert ended(run).collect() == [0, 1, 2]
    finally:
        (tmp_path / GATE).touch()
