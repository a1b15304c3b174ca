"""Every crash point of every process: it dies there, resume and collect follow, nothing is lost.

In process: see `tests/support/mortal.py` for how a process dies. It is a sample of the points in
CI, and all of them with ESPNET3_LONG_TESTS=1. The same with real processes and SIGKILL is in
`test_driver_dies.py` and `test_kill_points.py`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.errors import SubmissionRefused
from espnet3.run import Run
from espnet3.specs import layout
from espnet3.specs.models import AcceptedJob, Submission
from espnet3.submit.local_launcher import LocalLauncher
from espnet3.worker import supervisor
from espnet3.worker.detaching import Report
from espnet3.worker.main import main as worker
from tests.support import world as world_module
from tests.support.crash_points import crash_everywhere, requeue_a_dead_worker, run_tasks
from tests.support.helpers import LONG, each
from tests.support.mortal import Died, Process, reach
from tests.support.world import N_ITEMS, N_SHARDS, World, worker_surroundings


@pytest.fixture(params=["files", "objects"])
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A world that nothing has happened to yet."""
    world = World(tmp_path, monkeypatch, objects=request.param == "objects")
    yield world
    world.end()


def with_a_predecessor(world: World) -> None:
    """Submit; the task of rank 2 died after its third item and was requeued by the scheduler."""
    requeue_a_dead_worker(world)
    assert len(world.durable()) == (2 if world.objects else 3)  # objects: what was checkpointed


def resumed(world: World) -> None:
    """As above, but all nodes failed and the run was resumed."""
    with_a_predecessor(world)
    for task in world.cluster.queued():
        task.state = task.state._replace(state="ended", word="NODE_FAIL")
    world.run(world.resume)


def repair(world: World) -> None:
    """What a user does about damaged results."""
    Run(world.run_dir).resume(repair=True, patience=0)


def damaged(world: World) -> None:
    """All is done, and then a byte of what the predecessor left changes."""
    with_a_predecessor(world)
    world.run_queued()
    name = min(name for name in world.seen if name.startswith(f"{layout.RESULTS}/000002."))
    data = world.seen[name]
    world.overwrite(name, data[:20] + bytes([data[20] ^ 1]) + data[21:])


def repaired(world: World) -> None:
    """As above, and it is to be computed again."""
    damaged(world)
    world.run(lambda: repair(world))


@pytest.mark.parametrize("whole", [True, False])
def test_submitter_dies(world: World, monkeypatch: pytest.MonkeyPatch, whole: bool) -> None:
    monkeypatch.setattr("espnet3.storage.syncfs.can_sync_whole", lambda folder: whole)
    left = 0

    def after(process: Process) -> None:
        nonlocal left
        left += bool(world.unfinished())
        world.run(world.submit if process.dies_at % 2 else world.resume)
        assert len(world.cluster.queued()) == N_SHARDS  # none is lost, and none there twice
        world.finish()

    every = each(3 if world.objects else 7 if whole else 11)
    points = crash_everywhere(world, lambda p: world.run(world.submit, p), after, every=every)
    assert points > (20 if world.objects else 60)
    assert left > (5 if LONG else 1) or world.objects  # objects have no half-written files


@pytest.mark.parametrize("prepared", [with_a_predecessor, resumed, repaired])
def test_worker_dies(world: World, prepared: Callable[[World], None]) -> None:
    prepared(world)
    every = each(15 if world.objects or prepared is repaired else 35)
    points = crash_everywhere(world, run_tasks(world), lambda process: world.finish(), every=every)
    assert points > (10 if world.objects else 30 if prepared is repaired else 140)


def test_resuming_process_dies(world: World) -> None:
    with_a_predecessor(world)
    for task in world.cluster.queued():
        task.state = task.state._replace(state="ended", word="NODE_FAIL")
    points = crash_everywhere(
        world,
        lambda process: world.run(world.resume, process),
        lambda process: world.finish(),
        every=each(3 if world.objects else 7),
    )
    assert points > 20


def test_repairing_process_dies(world: World) -> None:
    damaged(world)
    points = crash_everywhere(
        world,
        lambda process: world.run(lambda: repair(world), process),
        lambda process: world.finish(lambda: repair(world)),
        every=each(3 if world.objects else 7),
    )
    assert points > 20


def test_process_that_computes_failed_items_again_dies(world: World) -> None:
    """Nothing but these is computed, whatever the resume and its tasks died of."""
    failing = {0, 3, 8, 11, 12}

    def fail(item: int) -> None:
        if item in failing:
            raise ValueError(item)

    world.parallel = {**world.parallel, "on_error": "record"}
    world_module.in_forward.append(fail)
    try:
        world.run(world.submit)
        world.run_queued()
    finally:
        world_module.in_forward.remove(fail)
    assert world.durable() == {*range(N_ITEMS)} - failing

    def again() -> None:
        Run(world.run_dir).resume(items="failed", patience=0)

    def after(process: Process) -> None:
        world.finish(again)

    failed = world.save()
    every = each(7 if world.objects else 11)
    points = crash_everywhere(world, lambda process: world.run(again, process), after, every=every)
    assert points > 20
    world.restore(failed)
    world.run(again)
    every = each(15 if world.objects else 39)
    points = crash_everywhere(world, run_tasks(world), after, every=every)
    assert points > (10 if world.objects else 60)


def test_cancelling_process_dies(world: World) -> None:
    with_a_predecessor(world)
    world.run_task(world.cluster.tasks[0])
    cancel = Run(world.run_dir).cancel
    left = set()

    def after(process: Process) -> None:
        left.add(len(world.cluster.queued()))
        world.run(cancel)
        assert not world.cluster.queued()
        world.finish()

    assert crash_everywhere(world, lambda process: world.run(cancel, process), after) > 5
    assert left == {0, 3}


@pytest.mark.parametrize("way", ["list", "file"])
def test_collecting_process_dies(world: World, way: str) -> None:
    with_a_predecessor(world)
    world.run_queued()
    old = world.folder / "out.jsonl"
    old.write_text("what was there before")
    collect = world.collect if way == "list" else world.collect_file

    def after(process: Process) -> None:
        # The merged file is the old one or the whole new one.
        kept = old.read_text() == "what was there before"
        assert kept or len(old.read_text().splitlines()) == N_ITEMS
        assert world.collect() == world.collect_file() == world.expected
        old.write_text("what was there before")

    points = crash_everywhere(world, lambda process: world.run(collect, process), after)
    assert points > 5


# --- the power of the host fails ------------------------------------------------------------------


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_power_fails_while_submitting(world: World, names: bool) -> None:
    def after(process: Process) -> None:
        world.cut_power(names=names)
        assert process.dead or Path(world.run_dir, layout.RUN).exists()
        world.finish()

    every = each(15)
    assert crash_everywhere(world, lambda p: world.run(world.submit, p), after, every=every) > 60


@pytest.mark.parametrize("names", [False, True], ids=["bytes", "names"])
@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_power_fails_while_working(world: World, names: bool) -> None:
    """Unsynced bytes, or names too, are lost at any operation and again at the end."""
    resumed(world)

    def after(process: Process) -> None:
        world.cut_power(names=names)
        world.finish()
        world.cut_power(names=names)
        assert world.collect() == world.expected

    assert crash_everywhere(world, run_tasks(world), after, every=each(39)) > 130


@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_what_a_dead_worker_left_unsynced_is_vouched_for_only_once_synced(world: World) -> None:
    resumed(world)
    world.run_queued()
    world.cut_power(names=True)
    assert world.collect() == world.expected


# --- env: local -----------------------------------------------------------------------------------


class InProcessLauncher(LocalLauncher):
    """Starts the supervisor within this process; `process` is the next one."""

    process = Process()
    report: Report

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        words = (await self.render(submission, submission.jobs[0])).command
        reading, writing = os.pipe2(os.O_NONBLOCK)
        InProcessLauncher.report = Report(writing, "espnet3.worker.supervisor")
        process, InProcessLauncher.process = InProcessLauncher.process, Process()
        try:
            with worker_surroundings(), process.alive():
                supervisor.main(words[words.index("espnet3.worker.supervisor") + 1 :])
        except Died:
            pass
        try:
            assert os.read(reading, 100) == b"\n"
        except BlockingIOError:
            raise SubmissionRefused("local", "the supervisor died at its start") from None
        finally:
            os.close(reading)
        yield AcceptedJob(name=submission.jobs[0].name, job_id=str(os.getpid()))


class InProcessWorker:
    """What `subprocess.Popen` gives, of a worker that has run within this process."""

    def __init__(self, command: list[str], **streams: Any) -> None:
        reach()
        with worker_surroundings(), Process().alive():
            worker(command[command.index("espnet3.worker") + 1 :])
        os.kill(os.getpid(), signal.SIGCHLD)
        reach()

    def poll(self) -> int:
        return 0


@pytest.mark.parametrize("world", ["files"], indirect=True)
def test_local_supervisor_dies(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any operation, between any two workers; what it had started lives on."""
    import subprocess

    from espnet3.submit import new_run, run_groups

    for user in (new_run, run_groups):
        monkeypatch.setattr(user, "make_launcher", lambda config, runner: InProcessLauncher(config))
    monkeypatch.setattr(supervisor, "detach", lambda *what: InProcessLauncher.report)
    popen = SimpleNamespace(**{**vars(subprocess), "Popen": InProcessWorker})
    monkeypatch.setattr(supervisor, "subprocess", popen)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM)}
    world.parallel = {**world.parallel, "env": "local", "n_workers": 1}
    refused = 0

    def submit(process: Process) -> None:
        nonlocal refused
        InProcessLauncher.process = process
        try:
            world.run(world.submit)
        except SubmissionRefused:
            refused += 1

    def after(process: Process) -> None:
        world.finish()
        assert Counter(world_module.calls) == Counter(range(N_ITEMS))
        world_module.calls.clear()

    try:
        points = crash_everywhere(world, submit, after, every=each(7))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert points > 20
    assert refused > (5 if LONG else 1)
    assert Run(world.run_dir).status().done
    assert len(world.files()[layout.accepted_jobs(1)]) > 0
