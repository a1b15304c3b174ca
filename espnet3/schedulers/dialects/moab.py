"""Moab's dialect: Moab Workload Manager 7 to 9, above Torque or Slurm.

From the manual of 9.1 and, for `showq --xml`, answers of real servers that users have published;
shown on a stand-in that keeps to them. No server could be had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialects.moab_words import array_state, is_vacated, task_state
from espnet3.schedulers.dialects.pbs import PbsScheduler
from espnet3.schedulers.dialects.qsub_style import (
    id_lines,
    plain_arguments,
    short_name,
    without_name,
)
from espnet3.schedulers.dialects.slurm import SlurmScheduler
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.scripts import handfuls, is_array, log_line
from espnet3.schedulers.walltimes import clock_seconds, hours_minutes_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

# A choice: Moab takes 100,000 (msub, -t), but hands each task to the resource manager as a job.
_MAX_ARRAY_SIZE = 1000
_JOB_ID = re.compile(r"([A-Za-z][\w-]*\.)?[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9._-]+)?")
# How many jobs are asked why they wait, one command each.
_EXPLAINED = 3
# What canceljob and checkjob say of a job that has ended, or is about to.
_GONE = re.compile(
    r"invalid job specified|(cannot|could not) locate job|"
    r"(already|is|has|been) (cancell?ed|completed?|removed)",
    re.IGNORECASE,
)
# What dask-jobqueue asks for by default, in PBS Pro's form.
_SELECT = re.compile(r"^#PBS -l select=1:ncpus=(\d+):mem=(\w+)$", re.MULTILINE)


class _Row(NamedTuple):
    """What `showq` tells of a job, an array or an array's task."""

    queue: str
    fields: Mapping[str, str]

    def ids(self) -> tuple[list[str], str | None]:
        """The ids of its job, Moab's own first, and its index in it; None is no array's task."""
        ids = [_parts(self.fields.get(name, "")) for name in ("GJID", "JobID")]
        index = next((index for _, index in ids if index is not None), None)
        return [job_id for job_id, _ in ids if job_id], index

    def submission(self) -> tuple[str, float | None]:
        """Who submitted it, and when, in seconds since 1970."""
        when = self.fields.get("SubmissionTime", "")
        return self.fields.get("User", ""), float(when) if when.isdecimal() else None

    @property
    def name(self) -> str:
        """The name that the job was given, without what may stand behind it for a task."""
        return re.split(r"\W", self.fields.get("JobName", ""), maxsplit=1)[0]


class MoabScheduler(Scheduler):
    """Moab through msub, showq, checkjob and canceljob."""

    name = "moab"
    # The resource manager below leaves its own variables, too.
    within = ("MOAB_JOBID", *PbsScheduler.within, *SlurmScheduler.within)
    inherited = ("MOAB_", *PbsScheduler.inherited, *SlurmScheduler.inherited)
    kept = PbsScheduler.kept | SlurmScheduler.kept
    unfit = PbsScheduler.unfit | SlurmScheduler.unfit
    no_answer = re.compile(
        r"timed? ?out|cannot connect|communication (error|failure)|end of file|"
        r"connection (reset|refused)|server is (not available|busy)",
        re.IGNORECASE,
    )
    version_command = ("showq", "--version")
    directive = PbsScheduler.directive
    settled: ClassVar[Mapping[str, str]] = {**PbsScheduler.settled, "stay": "-[IK]"}

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("MOAB_JOBARRAYINDEX", "")
        return int(index) if index.isdecimal() else None

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("MOAB_JOBID")

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return "MOAB_JOBID" in environ  # no variable tells it

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        return short_name(prefix, super().unique_name(prefix, run_id, number, position))

    def walltime_seconds(self, walltime: object) -> float | None:
        # [[DD:]HH:]MM:SS, and 1-12:00:00 as elsewhere.
        return clock_seconds(
            re.sub(r"^(\d+):(?=\d+:\d+:\d+$)", r"\1-", str(walltime)), lone="seconds"
        )

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        walltime = options.get("walltime")
        seconds = self.walltime_seconds(walltime)
        if seconds is None or "-" not in str(walltime):
            return dict(options)
        return {**options, "walltime": hours_minutes_seconds(seconds)}

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        # -E hands a job Moab's own variables, and nothing of this environment.
        words = ["-E", *plain_arguments(job.name)]
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words += ["-t", f"{job.name}.[0-{job.n_tasks - 1}]{throttle}"]
        return words

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        if not is_array(job, array=array):
            return [log_line(job, log_directory, "0")]
        # Without an index every task would take itself for the first one.
        return [
            log_line(job, log_directory, '"${MOAB_JOBARRAYINDEX:-unknown}"'),
            ': "${MOAB_JOBARRAYINDEX:?is not set here; set job_array: false}"',
        ]

    def amended(
        self, script: str, job: PlannedJob, log_directory: str, *, array: bool, after: str | None
    ) -> str:
        return _SELECT.sub(r"#PBS -l nodes=1:ppn=\1,mem=\2", without_name(script))

    def after_argument(self, job_id: str) -> list[str]:
        return ["-l", f"depend=afterany:{job_id}"]

    def job_ids(self, output: str) -> list[str]:
        return [_parts(job_id)[0] for job_id in id_lines(output, _JOB_ID)]

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}[{index}]"

    async def max_array_size(self) -> int:
        return _MAX_ARRAY_SIZE

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        if not keys.by_name:
            return {}
        states: dict[TaskKey, TaskState] = {}
        of_arrays: dict[TaskKey, tuple[PlannedJob, TaskState]] = {}
        for row in await self._rows(keys.users):
            job_ids, index = row.ids()
            jobs = (keys.job(job_id, row.name, *row.submission()) for job_id in job_ids)
            found = next(filter(None, jobs), None)
            if found is None:
                continue
            submission, job = found
            if index is None and job.n_tasks > 1:
                of_array = job, array_state(row.queue, row.fields)
                of_arrays.setdefault((submission, job.first_task), of_array)
                continue
            state = task_state(row.queue, row.fields)
            for task in tasks_at(job, positions(index or "0", job.n_tasks)):
                key = submission, task
                if key not in states or not is_vacated(row.fields):  # or it is in the queue again
                    states[key] = state
        # While an array's own row is listed, none of its tasks is taken for gone.
        for (submission, first), (job, state) in of_arrays.items():
            for task in range(first, first + job.n_tasks):
                states.setdefault((submission, task), state)
        return states

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = {job.name for job in planned}
        ids: dict[str, str] = {}
        for row in await self._rows([user]):
            job_ids, _ = row.ids()
            if row.name in names and job_ids:
                ids[row.name] = job_ids[0]
        return [AcceptedJob(name=name, job_id=ids[name]) for name in sorted(ids)]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        for ids in handfuls((job.job_id for job in jobs), _JOB_ID):
            answer = await self._ask("canceljob", *ids)
            if len(ids) > 1 and _GONE.search(answer.out + answer.err):
                # The manual does not say if it goes on behind a job that is gone.
                for job_id in ids:
                    _check(await self._ask("canceljob", job_id))
            else:
                _check(answer)

    async def reasons(self, job_ids: Sequence[str]) -> str:
        said: list[str] = []
        for ids in handfuls(job_ids[:_EXPLAINED], _JOB_ID):
            for job_id in ids:
                answer = await self._ask("checkjob", job_id)
                _check(answer)
                said += re.findall(r"^ *(?:NOTE|BLOCK MSG): +(.+?) *$", answer.out, re.MULTILINE)
        return ", ".join(dict.fromkeys(said))

    async def _rows(self, users: Iterable[str]) -> list[_Row]:
        """The jobs of some users: first those that have not ended, then those that have.

        In this order, or a job that ends between the two questions would be in neither answer.
        """
        rows: list[_Row] = []
        for more in ([], ["-c"]):
            for user in sorted(users):
                answer = await self._ask("showq", *more, "--xml", "-w", f"user={user}")
                said = one_line(answer.err.strip() or answer.out, 300)
                if answer.code != 0:
                    words = said or f"showq ended with exit code {answer.code}"
                    raise SchedulerUnavailable(self.name, words)
                found = _parsed(answer.out)
                if found is None:
                    words = f"showq printed no whole list of jobs: {said or 'nothing'}"
                    raise SchedulerUnavailable(self.name, words)
                rows += found
        return rows

    async def _ask(self, *command: str) -> Answer:
        return await ask(self.name, command, environ=self.scrubbed(os.environ))


def _check(answer: Answer) -> None:
    """Raise for what a command complains of, unless it is of jobs that are gone.

    Raises:
        SchedulerUnavailable: it failed.
    """
    lines = [*answer.err.splitlines(), *answer.out.splitlines()]
    errors = [line.strip() for line in lines if line.lstrip().startswith("ERROR")]
    problems = [line for line in errors if not _GONE.search(line)]
    if problems or (answer.code != 0 and not errors):
        words = "\n".join(problems) or answer.err or answer.out or f"exit code {answer.code}"
        raise SchedulerUnavailable(MoabScheduler.name, words)


def _parsed(output: str) -> list[_Row] | None:
    """The jobs in what `showq --xml` printed; None where it is not all of it."""
    from xml.etree import ElementTree  # workers, which import the dialects, never come here

    try:
        # A site whose own commands print hostile XML runs whatever it likes in our jobs anyway.
        root = ElementTree.fromstring(output.strip())  # noqa: S314
    except ElementTree.ParseError:
        return None
    queues = root.findall("queue")
    return [
        _Row(queue.get("option", ""), job.attrib) for queue in queues for job in queue.iter("job")
    ] if queues else None  # fmt: skip


def _parts(job_id: str) -> tuple[str, str | None]:
    """The id of the job that a task belongs to, and the indices of it, or of some.

    >>> _parts("Moab.12[3]"), _parts("Moab.12"), _parts("12[4-9].head")
    (('Moab.12', '3'), ('Moab.12', None), ('12.head', '4-9'))
    """
    found = re.fullmatch(r"([^\[\]]*)\[([\d,:-]*)\]([^\[\]]*)", job_id)
    return (f"{found[1]}{found[3]}", found[2] or None) if found else (job_id, None)


SCHEDULER = MoabScheduler
