"""Real processes, killed by SIGKILL at their operations on the storage.

What `test_crash_points.py` simulates is done here: a few points of each process in CI, and all of
them with ESPNET3_LONG_TESTS=1. The driver is killed in `test_driver_dies.py`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from espnet3.errors import SubmissionRefused
from espnet3.run import Run, submit_run
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.models import PlannedJob, Submission
from espnet3.submit.launcher import Rendered
from espnet3.submit.local_launcher import LocalLauncher
from tests.support.helpers import (
    LONG,
    ROOT,
    ended,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    wait_for,
)
from tests.support.runners import MENDED, Noting, Workshop
from tests.support.stand_in_cluster import Task
from tests.support.world import N_ITEMS, Counted, Nothing, World, expected


def dying(step: int, folder: Path, *words: str) -> list[str]:
    """The command of a process that is killed at an operation; 0 lets it live."""
    module = [sys.executable, "-m", "tests.chaos.dying_process"]
    return [*module, str(step), str(folder / "operations"), *words]


def run_dying(step: int, folder: Path, *words: str, **environ: str) -> int:
    """Run such a process. Returns its exit code."""
    environ = {**os.environ, **environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        dying(step, folder, *words), env=environ, capture_output=True, text=True, check=False
    )
    assert process.returncode in (0, -signal.SIGKILL), process.stderr
    return process.returncode


def some(folder: Path, n: int) -> Iterator[int]:
    """All operations of the process that lived last, or some of them."""
    total = int((folder / "operations").read_text())
    return iter(range(1, total + 1) if LONG else range(1, total + 1, max(1, total // n)))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A submitted run."""
    world = World(tmp_path, monkeypatch)
    world.run(world.submit)
    return world


def kill_everywhere(world: World, n: int, run: Callable[[int], int]) -> None:
    """Kill a process at some of its operations, each time from the same state, and go on."""
    before = world.save()
    assert run(0) == 0
    for step in some(world.folder, n):
        world.restore(before)
        assert run(step) == -signal.SIGKILL, step
        world.look()
        world.finish()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_worker_is_killed(world: World) -> None:
    for task in world.cluster.tasks[:3]:
        world.run_task(task)
    name, words = world.cluster.tasks[3].job, world.cluster.tasks[3].words

    def run(step: int) -> int:
        task = Task(name, 1, words)
        world.cluster.tasks[3].state = TaskState("ended", "FAILED")
        words_ = ["espnet3.worker", *task.words]
        return run_dying(step, world.folder, *words_, **task.environ())

    kill_everywhere(world, 5, run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_collect_is_killed(world: World) -> None:
    world.run_queued()
    output = world.folder / "out.jsonl"

    def run(step: int) -> int:
        words = ["espnet3", "collect", world.run_dir, "-o", str(output), "--patience", "0"]
        code = run_dying(step, world.folder, *words)
        # It is there whole, or not at all.
        assert not output.exists() or len(output.read_text().splitlines()) == N_ITEMS
        output.unlink(missing_ok=True)
        return code

    kill_everywhere(world, 3, run)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("repair", [False, True], ids=["resume", "repair"])
def test_resume_is_killed(tmp_path: Path, repair: bool) -> None:
    """Its jobs are local ones; what of them was started lives on."""
    config = parallel("local", n_workers=1, n_shards=2, preflight=False)
    provider, damaged = Workshop({"folder": str(tmp_path)}), "000001.*.jsonl"
    if not repair:
        provider.config["failing"] = [7]
    run = ended(submit_run(Noting(provider), range(10), run_dir=tmp_path / "run", parallel=config))
    idle = f"a process of {run.run_dir} lives on"
    wait_for(lambda: not processes_of(run), idle)
    begun = noted(tmp_path, "begun")
    if repair:
        [file] = Path(run.run_dir, layout.RESULTS).glob(damaged)
        file.write_bytes(file.read_bytes().replace(b'"square":49', b'"square":50'))
    (tmp_path / MENDED).touch()
    before = tmp_path / "before"
    shutil.move(run.run_dir, before)
    words = ["espnet3.cli", "resume", run.run_dir, *(["--repair", "--patience", "0"] * repair)]

    def resume(step: int) -> int:
        shutil.rmtree(run.run_dir, ignore_errors=True)
        shutil.copytree(before, run.run_dir)
        (tmp_path / "begun").write_text("".join(f"{item}\n" for item in begun.elements()))
        code = run_dying(step, tmp_path, *words)
        wait_for(lambda: not processes_of(run), idle)
        return code

    answer = locally(tmp_path, 10)
    assert resume(0) == 0
    assert run.collect() == answer
    for step in some(tmp_path, 4):
        assert resume(step) == -signal.SIGKILL, step
        run.resume(repair=repair, patience=0)
        ended(run)
        assert run.collect(patience=0) == answer
        wait_for(lambda: not processes_of(run), idle)
        assert noted(tmp_path, "begun") - begun == once(range(5, 10) if repair else range(7, 10))


class DyingSupervisor(LocalLauncher):
    """Starts a supervisor that is killed at its operation number `step`."""

    step, folder = 0, Path()

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        words = (await super().render(submission, job)).command
        module = words.index("espnet3.worker.supervisor")
        return Rendered("", dying(self.step, self.folder, *words[module:]))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_local_supervisor_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(DyingSupervisor, "folder", tmp_path)
    answer = expected()
    config = {"env": "local", "n_workers": 1, "n_shards": 2, "preflight": False}

    def submit(step: int) -> Run:
        """Whatever becomes of the supervisor; the workers that it started live on."""
        monkeypatch.setattr(DyingSupervisor, "step", step)
        run_dir = tmp_path / f"run-{step}"
        with monkeypatch.context() as patch:
            patch.setattr("espnet3.submit.local_launcher.LocalLauncher", DyingSupervisor)
            with contextlib.suppress(SubmissionRefused):  # the supervisor died at its start
                submit_run(Counted(Nothing({})), range(N_ITEMS), run_dir=run_dir, parallel=config)
        return Run(run_dir)

    def idle(run: Run) -> None:
        wait_for(lambda: not processes_of(run), "something lives on")

    whole = submit(0)
    idle(whole)
    assert whole.collect() == answer
    runs = [submit(step) for step in some(tmp_path, 2)]
    for run in runs:
        idle(run)
        run.resume()
    for run in runs:
        idle(run)
        assert run.collect(patience=0) == answer
        files = Path(run.run_dir, layout.RESULTS).iterdir()
        records = sum(file.read_bytes().count(b"\n") for file in files)
        assert records == N_ITEMS, "items were computed twice"
