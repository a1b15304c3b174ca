"""A stand-in for a batch system, at the ports `Dialect` and `Launcher`. For tests.

It accepts jobs, remembers them, and knows of each task whether it is queued, runs or has ended.
Nothing starts by itself: a test takes queued tasks and lets them run as it likes.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import pytest

from espnet3.config.model import ParallelConfig
from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.worker_command import FINISHER
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest
from espnet3.schedulers.dialect import Task as JobTask
from espnet3.schedulers.job_keys import JobKeys, Row
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.plan import JobShape, shape_jobs
from tests.support.mortal import reach

NAME = "oar"  # an env of the parallel config that this stands in for
INDEX, RESTARTS = "STAND_IN_INDEX", "STAND_IN_RESTARTS"


@dataclass
class Task:
    """One task of a job that was accepted."""

    job: str
    index: int
    words: list[str]
    state: TaskState = field(default_factory=lambda: TaskState("queued", "PENDING"))
    restarts: int = 0
    waits_for: list[str] | None = None  # of a finisher: ids of jobs

    def environ(self) -> dict[str, str]:
        """What the batch system sets for it."""
        return {INDEX: str(self.index), RESTARTS: str(self.restarts)}


class Cluster:
    """What the batch system knows.

    Attributes:
        tasks: of all jobs, in the order of their acceptance.
        answers: False where it does not answer.
        cancelled: called with each task that is to be stopped.
    """

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.ids: dict[str, str] = {}
        self.answers = True
        self.cancelled: Callable[[Task], None] = lambda task: None

    def accept(
        self, job: PlannedJob, words: Sequence[str], waits_for: Sequence[str] | None = None
    ) -> str:
        """Take a job; that of a finisher, where it waits for others."""
        self.require()
        assert job.name not in self.ids, f"{job.name} was submitted twice"
        self.ids[job.name] = str(1000 + len(self.ids))
        if waits_for is not None:
            self.tasks.append(Task(job.name, 0, [*words], waits_for=[*waits_for]))
            return self.ids[job.name]
        first = ["--first-task", str(job.first_task)]
        for index in range(job.n_tasks):
            self.tasks.append(Task(job.name, index, [*words, *first]))
        return self.ids[job.name]

    def queued(self) -> list[Task]:
        """The workers that may be started."""
        return [t for t in self.tasks if t.state.state == "queued" and t.waits_for is None]

    def finishers(self) -> list[Task]:
        """The finishers that may be started: all that they wait for has ended."""
        live = {self.ids[task.job] for task in self.tasks if task.state.state != "ended"}
        return [
            task
            for task in self.tasks
            if task.state.state == "queued"
            and task.waits_for is not None
            and live.isdisjoint(task.waits_for)
        ]

    def forget_ended(self) -> None:
        """Forget all tasks that have ended, as batch systems do after a while."""
        self.tasks = [task for task in self.tasks if task.state.state != "ended"]

    def require(self) -> None:
        """Answer, or not."""
        if not self.answers:
            raise SchedulerUnavailable(NAME, "connection refused")


class StandInDialect(Dialect):
    """Asks the cluster, which is not a command but an object of this process."""

    name = NAME
    passes_environment = True  # its workers are threads of this process
    cluster: ClassVar[Cluster]

    def task(self, environ: Mapping[str, str]) -> JobTask:
        index = environ[INDEX]
        return JobTask(int(index), f"stand-in-{index}", environ[RESTARTS] != "0")

    def request(self, request: JobRequest) -> JobParts:
        return JobParts([])

    def job_ids(self, output: str) -> list[str]:
        return [output]

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        yield from ()
        self.cluster.require()
        return [
            Row(self.cluster.ids[task.job], task.state, task.job, indices=str(task.index))
            for task in self.cluster.tasks
        ]

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        yield from ()
        self.cluster.require()
        for task in self.cluster.tasks:
            if self.cluster.ids[task.job] not in job_ids or task.state.state == "ended":
                continue
            if task.state.state == "queued":
                task.state = TaskState("ended", "CANCELLED", stopped="cancelled")
            else:
                self.cluster.cancelled(task)


class StandInLauncher(Launcher):
    """Hands jobs to the cluster; the submitter may die before and after each acceptance."""

    def __init__(self, parallel: ParallelConfig, runner: type[Any]) -> None:
        self.options = dict(parallel.options)
        self.python = "python"
        self._config = parallel

    async def max_array_size(self) -> int:
        return 1000

    def job_name_prefix(self) -> str:
        return "stand-in"

    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        return shape_jobs(
            n_tasks,
            self._config.n_workers,
            job_array=self._config.job_array,
            max_array_size=max_array_size,
        )

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        return Rendered("", ["stand-in", job.name])

    async def render_finisher(self, finisher: Finisher) -> Rendered:
        return Rendered("", ["stand-in", finisher.job.name])

    async def launch_finisher(self, finisher: Finisher) -> str:
        reach()
        words = finisher.command[finisher.command.index(FINISHER) + 1 :]
        job_id = StandInDialect.cluster.accept(finisher.job, words, waits_for=finisher.waits_for)
        reach()
        return job_id

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        words = submission.worker_command[submission.worker_command.index("espnet3.worker") + 1 :]
        for job in submission.jobs:
            reach()
            job_id = StandInDialect.cluster.accept(job, words)
            reach()
            yield AcceptedJob(name=job.name, job_id=job_id)


def install_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let espnet3 find the stand-in where it would find a real batch system's dialect."""
    module = ModuleType(f"espnet3.schedulers.dialects.{NAME}")
    module.DIALECT = StandInDialect()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


def install(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Let espnet3 submit to a new stand-in."""
    from espnet3.submit import new_run, run_groups

    cluster = Cluster()
    install_dialect(monkeypatch)
    monkeypatch.setattr(StandInDialect, "cluster", cluster, raising=False)
    for user in (new_run, run_groups):
        monkeypatch.setattr(user, "make_launcher", StandInLauncher)
    return cluster
