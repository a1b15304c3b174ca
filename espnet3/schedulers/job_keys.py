"""What a batch system is asked about, and which tasks its rows speak of."""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Collection, Container, Iterable, Sequence
from datetime import timedelta
from itertools import chain, repeat

from espnet3._structs import Struct
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskKey, TaskState, Wanted
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.models import PlannedJob

EVERY = "0-4294967295"
"""Indices of a row that may speak of any task of its array."""
# Between the clocks of two hosts, or a local time that is told twice in autumn.
_CLOCKS = timedelta(hours=2).total_seconds()


class Row(Struct):
    """What a batch system tells of a job, or of some tasks of an array.

    Attributes:
        job_id: the id of the job, or of the whole array, as the submit command told it.
        state: the state.
        name: the job's name, or "" where it is not told.
        user: whose job it is, or "" where it is not told.
        submitted: when it was submitted, in seconds since 1970; None where it is not told.
        indices: the scheduler's own indices of the tasks, such as `3` or `1,4-9:2`; "" for a job
            that is not an array, `EVERY` for all of them.
    """

    job_id: str
    state: TaskState
    name: str = ""
    user: str = ""
    submitted: float | None = None
    indices: str = ""


class JobKeys:
    """The jobs with a wanted task, by their ids and their unique names.

    Attributes:
        by_id: a recorded job's id -> submission number and job.
        by_name: a job's unique name -> the same, also where no id was recorded.
        unrecorded: whether there is a job without a recorded id.
        users: who submitted.
        created: when the first submission was; None where there is none.
        now: when it is asked, in seconds since 1970.
        accepted: submission number -> when its jobs had all been accepted, in seconds since 1970.

    Args:
        submissions: whose jobs.
        wanted: as for `Scheduler.query`.
    """

    def __init__(self, submissions: Sequence[KnownSubmission], wanted: Wanted | None) -> None:
        self.by_id: dict[str, tuple[int, PlannedJob]] = {}
        self.by_name: dict[str, tuple[int, PlannedJob]] = {}
        self.unrecorded = False
        self.now = time.time()
        self.users = {entry.submission.submitter.user for entry in submissions}
        self.created = min((entry.submission.created for entry in submissions), default=None)
        self._wanted: dict[str, Sequence[int]] = {}  # by the job's name
        self.accepted: dict[int, float] = {}
        for entry in submissions:
            number, ids = entry.submission.number, entry.job_ids()
            if entry.recorded is not None:
                self.accepted[number] = entry.recorded.created.timestamp()
            tasks = range(entry.submission.n_tasks) if wanted is None else wanted.get(number, ())
            for job in entry.submission.jobs:
                first = bisect_left(tasks, job.first_task)
                own = tasks[first : bisect_left(tasks, job.first_task + job.n_tasks, lo=first)]
                if not own:
                    continue
                self.by_name[job.name] = (number, job)
                self._wanted[job.name] = own
                job_id = ids.get(job.name)
                if job_id is None:
                    self.unrecorded = True
                else:
                    self.by_id[job_id] = (number, job)

    @classmethod
    def of_names(cls, planned: Iterable[PlannedJob], user: str) -> JobKeys:
        """Jobs of a user of which only the names are known."""
        keys = cls((), None)
        keys.by_name = {job.name: (0, job) for job in planned}
        keys.unrecorded, keys.users = True, {user}
        return keys

    @classmethod
    def of_ids(cls, job_ids: Iterable[str], user: str) -> JobKeys:
        """Jobs of a user of which only the ids are known."""
        keys = cls((), None)
        for job_id in job_ids:
            job = PlannedJob(name=job_id, first_task=0, n_tasks=1, log="")
            keys.by_id[job_id] = keys.by_name[job_id] = (0, job)
            keys._wanted[job_id] = range(1)
        keys.users = {user}
        return keys

    def unrecorded_names(self) -> list[str]:
        """The names of those jobs without a recorded id, in order."""
        return sorted(self.by_name.keys() - {job.name for _, job in self.by_id.values()})

    def states(self, rows: Iterable[Row], *, first: int = 0) -> TaskStates:
        """What rows say of the tasks; the last one counts.

        Args:
            rows: those of other jobs are passed over.
            first: what the scheduler calls the first task.
        """
        states = TaskStates()
        for row in rows:
            found = self.job(row.job_id, row.name, row.user, row.submitted)
            if found is not None:
                number, job = found
                where = positions(row.indices, job.n_tasks, first=first) if row.indices else [0]
                states.fill(number, tasks_at(job, where), row.state)
        return states

    def job(
        self, job_id: str, name: str = "", user: str = "", submitted: float | None = None
    ) -> tuple[int, PlannedJob] | None:
        """Submission number and job of what a row tells; None where it is not ours.

        Args:
            job_id: the id.
            name: the job's name, or "" where it is not told.
            user: whose job it is, or "" where it is not told.
            submitted: when it was submitted, in seconds since 1970; None where it is not told.
        """
        found = self.by_id.get(job_id) or self.by_name.get(name)
        if found is None or not name or name == found[1].name:
            return found
        # Renamed by its user it is still ours; otherwise its id has been used again.
        last = self.accepted.get(found[0])
        again = submitted is not None and last is not None and submitted > last + _CLOCKS
        return found if user in self.users and not again else None

    def not_in(self, states: Container[TaskKey]) -> tuple[set[TaskKey], list[str]]:
        """Wanted tasks of recorded jobs that have no state, and the ids of these jobs."""
        keys: set[TaskKey] = set()
        jobs: list[str] = []
        for job_id, (submission, job) in self.by_id.items():
            tasks = self._wanted[job.name]
            missing: Collection[int]
            if isinstance(states, TaskStates):  # in one step
                missing = set(tasks).difference(states.of(submission))
            else:
                missing = [task for task in tasks if (submission, task) not in states]
            if missing:
                keys.update(zip(repeat(submission), missing))
                jobs.append(job_id)
        return keys, jobs


def positions(ranges: str, n_tasks: int, *, first: int = 0) -> Sequence[int]:
    """Positions, from 0, of tasks in an array.

    Args:
        ranges: the scheduler's indices of these tasks.
        n_tasks: size of the array; what lies beyond is left out.
        first: what the scheduler calls the first task.

    Example:
        >>> positions("7", 10), positions("1,4-9:2", 9, first=1)
        ([7], [0, 3, 5, 7])
        >>> positions("0-999", 500)
        range(0, 500)
    """
    if ranges.isdecimal():  # most often
        return [int(ranges) - first] if first <= int(ranges) < n_tasks + first else []
    found: list[range] = []
    for part in ranges.split(","):
        span = re.fullmatch(r"(\d+)(?:-(\d+))?(?::(\d+))?", part)
        if span is not None:
            begin, last, step = int(span[1]), int(span[2] or span[1]), max(1, int(span[3] or 1))
            begin += max(0, -(-(first - begin) // step)) * step  # the first index from `first` on
            found.append(range(begin - first, min(last - first, n_tasks - 1) + 1, step))
    return found[0] if len(found) == 1 else [*chain.from_iterable(found)]


def tasks_at(job: PlannedJob, positions: Sequence[int]) -> Sequence[int]:
    """A job's tasks at some positions in its array; a range of them for a range."""
    first = job.first_task
    if isinstance(positions, range):
        return range(first + positions.start, first + positions.stop, positions.step)
    return [first + position for position in positions]
