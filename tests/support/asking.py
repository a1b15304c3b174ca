"""What tests of dialects share: submissions to ask for, and commands that are text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeAlias

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import get_dialect
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import JobParts, JobRequest
from espnet3.specs.items import ItemRange
from espnet3.specs.models import AcceptedJob, AcceptedJobs, PlannedJob, ProcessIdentity, Submission

ME = ProcessIdentity(host="login", pid=1, started=0.0, user="me")
Told: TypeAlias = Callable[[list[str], Mapping[str, str]], Answer]
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def entry(
    *jobs: tuple[str, int, str | None],
    number: int = 1,
    scheduler: str = "slurm",
    throttle: int | None = None,
) -> KnownSubmission:
    """A submission of jobs (name, number of tasks, id); no record where no job has an id."""
    planned, first = [], 0
    for name, n_tasks, _ in jobs:
        job = PlannedJob(name=name, first_task=first, n_tasks=n_tasks, log="l", throttle=throttle)
        planned.append(job)
        first += n_tasks
    submission = Submission(
        number=number, created=NOW, submitter=ME, scheduler=scheduler, n_workers=1,
        shards_per_job=1,
        options={}, worker_command=["python"], submit_command=["submit"], script="",
        log_directory="/logs", parallel={"env": scheduler},
        ranks=ItemRange(start=0, stop=first), jobs=planned,
    )  # fmt: skip
    accepted = [AcceptedJob(name=n, job_id=i) for n, _, i in jobs if i is not None]
    recorded = AcceptedJobs(number=number, created=NOW, recorded_by=ME, jobs=accepted)
    return KnownSubmission(submission, recorded if accepted else None)


def system(name: str) -> BatchSystem:
    """A batch system whose commands are `Commands.current`."""
    return BatchSystem(get_dialect(name), _told)


def parts(
    scheduler: BatchSystem,
    job: PlannedJob,
    log_directory: str = "/logs",
    *,
    array: bool = True,
    after: Sequence[str] = (),
    **options: Any,
) -> JobParts:
    """What a job is submitted with, as `JobRequest` has its arguments."""
    request = JobRequest(job, log_directory, array, after, options)
    return asyncio.run(scheduler.identified()).request(request)


def waiting(scheduler: BatchSystem, *job_ids: str) -> list[str]:
    """The arguments by which a job waits for others."""
    job = PlannedJob(name="n", first_task=0, n_tasks=2, log="l")
    without = parts(scheduler, job).arguments
    return [word for word in parts(scheduler, job, after=job_ids).arguments if word not in without]


class Commands:
    """Commands that answer with text, and what they were asked."""

    current: ClassVar[Commands]

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self._answers: dict[str, Told] = {}

    def say(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        """Let a command print this."""
        self.answer(name, lambda words, environ: Answer(code, out, err))

    def answer(self, name: str, told: Told) -> None:
        """Let a command answer by its words and its environment."""
        self._answers[name] = told

    def asked(self, name: str) -> list[str]:
        """The words of all calls of a command."""
        return [word for call in self.calls if call[0] == name for word in call[1:]]

    def lines(self) -> list[str]:
        """All calls, one line each."""
        return [" ".join(call) for call in self.calls]


async def _told(
    scheduler: str, words: Sequence[str], *, environ: Mapping[str, str], timeout: float
) -> Answer:
    """What `commands.ask` would, of commands that are there."""
    commands = Commands.current
    commands.calls.append([*words])
    if words[0] not in commands._answers:
        raise SchedulerUnavailable(scheduler, f"{words[0]} is not on this host's PATH")
    return commands._answers[words[0]]([*words], environ)
