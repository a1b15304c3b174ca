"""A finisher dies at any of its operations, and the next one that is started goes on from there.

Workers die too, so that there are waves. Nobody resumes: whatever happened, there is an end that
says that all is done, the results are those of local mode, and no shard was ever in two live jobs.
Of the crash points it is every eleventh, and the first of each kind, in CI, and all of them with
ESPNET3_LONG_TESTS=1.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import EspnetError, SchedulerUnavailable, SubmissionRefused
from espnet3.finish import finisher as finisher_module
from espnet3.finish.finisher import Waits, finish
from espnet3.run import Run
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.worker_command import parse_arguments
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, Cancellation, Submission, now
from tests.support.crash_points import crash_everywhere
from tests.support.helpers import LONG
from tests.support.mortal import Died, Process
from tests.support.stand_in_cluster import StandInLauncher, Task
from tests.support.world import N_SHARDS, World

MANY = 1 if LONG else 11
DEAD = TaskState("ended", "FAILED")


@pytest.fixture(params=["files", "objects"])
def unsubmitted(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A run to come, with a finisher."""
    told = tmp_path / "told"
    keys = {"collect": str(tmp_path / "out.jsonl"), "notify": f"echo told >> {told}"}
    monkeypatch.setattr(finisher_module, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(finisher_module, "_AFTER_REFUSAL", 0.0)
    world = World(tmp_path, monkeypatch, objects=request.param == "objects", finish=keys)
    yield world
    world.end()


@pytest.fixture
def world(unsubmitted: World) -> World:
    """A run with a finisher, of whose workers none has begun."""
    unsubmitted.run(unsubmitted.submit)
    return unsubmitted


def finishing(task: Task, scheduler: float = 0.0) -> Any:
    """What the job of a finisher does, once; it asks the scheduler for so many seconds."""

    def work() -> Any:
        options = parse_arguments(task.words)
        directory = RunDirectory.open(options.run)
        run = directory.run()
        mine = directory.read(Finisher, layout.finisher(options.number))
        return asyncio.run(finish(directory, run, mine, Waits(live=0.0, scheduler=scheduler)))

    return work


def run_finisher(world: World, task: Task, process: Process) -> None:
    """Start a finisher; where it dies, its job starts it again."""
    task.state = TaskState("running", "RUNNING")
    try:
        try:
            world.run(finishing(task), process)
        except Died:
            world.run(finishing(task))
    finally:
        task.state = TaskState("ended", "FAILED" if process.dead else "COMPLETED")


def mortal(world: World) -> Process:
    """A worker that dies in the midst of its shard."""
    return Process(9 if world.objects else 25)


def require_one_job_each(world: World) -> None:
    """No shard is in two submissions that live."""
    live = {task.job for task in world.cluster.tasks if task.state.state != "ended"}
    names = [name for name in world.seen if layout.submission_number(name.partition("/")[2])]
    ranks: list[int] = []
    for name in names:
        if not name.startswith(layout.SUBMISSIONS):
            continue
        found = json.loads(world.seen[name])
        items = found["ranks"]
        own = items.get("values") or range(items["start"], items["stop"], items.get("step", 1))
        for job in found["jobs"]:  # of those that a dead submitter planned some never were
            if job["name"] in live:
                ranks += own[job["first_task"] : job["first_task"] + job["n_tasks"]]
    assert len(ranks) == len({*ranks}), f"in two jobs: {sorted(ranks)}"


def play(world: World, kills: int = 2) -> int:
    """Let workers and finishers run to the end; some workers die first.

    Returns:
        How many finishers were started.
    """
    started = 0
    while True:
        while queued := world.cluster.queued():
            task = queued[0]
            if kills:
                kills -= 1
                with contextlib.suppress(Died):
                    world.run_task(task, mortal(world))
            else:
                world.run_task(task)
            require_one_job_each(world)
        ready = world.cluster.finishers()
        if not ready:
            return started
        started += 1
        assert started < 12, "an endless chain"
        run_finisher(world, ready[0], Process())


def require_end(world: World) -> None:
    """There is one end, it is the right one, and it was told."""
    end = json.loads(world.seen[layout.finished(1)])
    assert (end["outcome"], end["n_done"]) == ("done", N_SHARDS), end
    assert layout.finished(2) not in world.seen
    lines = Path(end["results"]).read_text().splitlines()
    assert [json.loads(line)["result"] for line in lines] == world.expected
    assert layout.notified(1) in world.seen
    assert (world.folder / "told").read_text().splitlines() in (["told"], ["told", "told"])
    (world.folder / "told").unlink()


def test_all_live(world: World) -> None:
    assert play(world, kills=0) == 1
    require_end(world)


def test_workers_die(world: World) -> None:
    assert play(world) == 2
    require_end(world)
    assert layout.wave(1) in world.seen


@pytest.mark.parametrize("kills", [0, 2], ids=["all is done", "a wave"])
def test_the_finisher_dies(world: World, kills: int) -> None:
    for task in world.cluster.queued():
        with contextlib.suppress(Died):
            world.run_task(task, mortal(world) if kills else Process())
        kills = max(0, kills - 1)
    [first] = world.cluster.finishers()

    def after(process: Process) -> None:
        require_one_job_each(world)
        play(world, kills=0)
        require_end(world)

    def action(process: Process) -> None:
        task = next(task for task in world.cluster.tasks if task.job == first.job)
        run_finisher(world, task, process)

    points = crash_everywhere(world, action, after, every=MANY)
    assert points > 20


def test_the_submitter_dies_and_the_same_call_is_made_again(unsubmitted: World) -> None:
    """Also between the jobs and their finisher, where no shard is left to be submitted."""
    world = unsubmitted

    def after(process: Process) -> None:
        world.run(world.submit)
        play(world, kills=0)
        require_end(world)

    crash_everywhere(world, lambda process: world.run(world.submit, process), after, every=MANY)


@pytest.mark.parametrize("question", range(1, 9))
def test_a_question_without_an_answer_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch, question: int
) -> None:
    """Also where it is a submit command's, of a wave or of the next finisher."""
    all_but_one_done(world)
    [first] = world.cluster.finishers()
    first.state = TaskState("running", "RUNNING")
    asked = 0

    def require() -> None:
        nonlocal asked
        asked += 1
        if question <= asked < question + 2:
            raise SchedulerUnavailable("stand-in", "connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(world.cluster, "require", require)
        assert world.run(finishing(first, scheduler=60.0)) is None
    first.state = TaskState("ended", "COMPLETED")
    require_one_job_each(world)
    assert [name for name in world.seen if name.startswith(layout.WAVES)] == [layout.wave(1)]
    play(world, kills=0)
    require_end(world)


def test_a_wave_with_no_finisher_behind_it_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_but_one_done(world)
    [first] = world.cluster.finishers()
    first.state = TaskState("running", "RUNNING")

    async def refuse(self: object, finisher: Finisher) -> str:
        raise SubmissionRefused("stand-in", "too many jobs")

    monkeypatch.setattr(StandInLauncher, "launch_finisher", refuse)
    end = world.run(finishing(first))
    first.state = TaskState("ended", "COMPLETED")
    assert end.outcome == "stopped"
    assert "still live, with no finisher behind: " in end.cause
    assert "too many jobs" in end.cause
    seen = Run(world.run_dir).status().finishing
    assert seen is not None
    assert (seen.state, "too many jobs" in seen.words) == ("stopped", True)
    assert (world.folder / "told").read_text() == "told\n"


def all_but_one_done(world: World) -> None:
    """Let one worker die, and the others end."""
    for task in world.cluster.queued()[:1]:
        with contextlib.suppress(Died):
            world.run_task(task, mortal(world))
    for task in world.cluster.queued():
        world.run_task(task)


def test_a_run_that_is_cancelled_when_its_wave_is_decided(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision stands, but nothing of it is submitted any more."""
    all_but_one_done(world)
    [first] = world.cluster.finishers()
    first.state = TaskState("running", "RUNNING")

    async def silent(self: object, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        if submission.number > 1:
            raise SchedulerUnavailable("stand-in", "connection refused")
        yield AcceptedJob(name="", job_id="")

    async def cancelled(self: object) -> None:
        if (directory := RunDirectory.open(world.run_dir)).store.exists(layout.wave(1)):
            note = Cancellation(number=1, created=now(), by=this_process())
            directory.publish_first(note)

    monkeypatch.setattr(StandInLauncher, "launch", silent)
    monkeypatch.setattr(finisher_module._Finisher, "_sleep", cancelled)
    end = world.run(finishing(first, scheduler=60.0))
    assert (end.outcome, end.cause) == ("stopped", "cancelled")
    assert layout.wave(1) in world.seen


def test_a_gap_in_the_numbers_of_waves(world: World) -> None:
    """As those leave that were queued up front where a finisher died: no number is taken twice."""
    if world.objects:
        pytest.skip("files are renamed by hand")
    all_but_one_done(world)
    [first] = world.cluster.finishers()
    run_finisher(world, first, Process())
    for task in world.cluster.queued():
        task.state = TaskState("ended", "PREEMPTED", stopped="preempted")
    waves = Path(world.run_dir, layout.WAVES)
    wave = json.loads((waves / "0001.json").read_bytes())
    (waves / "0002.json").write_text(json.dumps({**wave, "number": 2}))
    (waves / "0001.json").unlink()
    world.seen = world.files()
    play(world, kills=0)
    require_end(world)
    assert sorted(path.name for path in waves.iterdir()) == ["0002.json", "0003.json"]


def test_two_finishers_at_once_decide_once(world: World) -> None:
    """The second one is at work while the first has written its decision and goes on."""
    all_but_one_done(world)
    [first] = world.cluster.finishers()
    before = world.save()
    dies_at = 1
    while True:  # the first one stops at each of its operations, and goes on later, as another
        world.restore(before)
        task = next(task for task in world.cluster.tasks if task.job == first.job)
        process = Process(dies_at)
        task.state = TaskState("running", "RUNNING")
        with contextlib.suppress(Died):
            world.run(finishing(task), process)
        world.run(finishing(task))  # the other copy of it
        world.run(finishing(task))
        task.state = DEAD
        require_one_job_each(world)
        play(world, kills=0)
        require_end(world)
        waves = [name for name in world.seen if name.startswith(layout.WAVES)]
        assert len(waves) <= 2  # another one where the first died between intent and job
        if not process.dead:
            return
        dies_at += MANY


def test_the_run_is_removed(world: World) -> None:
    for task in world.cluster.queued():
        task.state = DEAD
    [first] = world.cluster.finishers()
    world.restore(type(world.save())({} if world.objects else None, world.cluster.tasks, {}))
    with pytest.raises(EspnetError):
        finishing(first)()
