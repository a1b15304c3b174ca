"""PBS's dialect: PBS Pro (and OpenPBS) from 2020 on, and Torque from 2.5 on.

Checked against the manual pages of OpenPBS 23.06 and Torque 6.1 and on stand-ins that keep to them;
no server could be had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from espnet3.schedulers.base import KnownSubmission, Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask, require_done
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.pbs_words import queued_words, task_state
from espnet3.schedulers.qsub_style import id_lines, plain_arguments, short_name, without_name
from espnet3.schedulers.scripts import handfuls, is_array, log_line
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.errors import SchedulerUnavailable
from espnet3.specs.models import AcceptedJob, PlannedJob

if TYPE_CHECKING:
    from pydantic import JsonValue

# Where the server does not say; pbs_server_attributes(7B). Torque has no limit then.
_MOST_TASKS = 10000
_JOB_ID = re.compile(r"[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9._-]+)?")
_FIELDS = (
    "Job_Name", "Job_Owner", "ctime", "job_state", "substate", "comment", "depend", "Hold_Types",
    "Exit_status", "exit_status", "resources_used.walltime", "Resource_List.walltime",
)  # fmt: skip
_FIELD = re.compile(rf"^ +({'|'.join(map(re.escape, _FIELDS))}) = (.*)$", re.MULTILINE)
# What they say of a job that has ended, or is about to.
_GONE = re.compile(
    r"unknown job ?id|job has finished|invalid state for job|nonexistent job id", re.I
)


class _Row(NamedTuple):
    """What `qstat -f` tells of a job, an array or an array's task."""

    job_id: str
    fields: dict[str, str]


class PbsScheduler(Scheduler):
    """PBS Pro or Torque through qsub, qstat, qselect and qdel; `prepare` finds out which."""

    name = "pbs"
    within = ("PBS_JOBID", "PBS_ENVIRONMENT")
    inherited = ("PBS_",)
    unfit = frozenset({"PBS_DPREFIX"})  # our directives would be comments
    # Which server; the rest is left by a job, or changes how directives are read.
    kept = frozenset({
        "PBS_CONF_FILE", "PBS_EXEC", "PBS_HOME", "PBS_DEFAULT", "PBS_SERVER", "PBS_PRIMARY",
        "PBS_SECONDARY", "PBS_BATCH_SERVICE_PORT", "PBS_CLIENTRETRY",
    })  # fmt: skip
    no_answer = re.compile(
        r"timed? ?out|cannot connect|communication failure|end of file|connection (reset|refused)",
        re.IGNORECASE,
    )
    version_command = ("qstat", "--version")
    directive = "#PBS"
    settled: ClassVar[Mapping[str, str]] = {
        "job_name": "-N",
        "log_directory": "-[oejk]",
        "array": "-[Jt]",
        "stay": r"-I|(-W)?(.*,)?block=true",
    }

    def __init__(self) -> None:
        self._torque: bool | None = None

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("PBS_ARRAY_INDEX") or environ.get("PBS_ARRAYID") or ""
        return int(index) if index.isdecimal() else None

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get("PBS_JOBID")

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return "PBS_JOBID" in environ  # arrays can always be rerun, and no variable tells it

    async def prepare(self) -> None:
        if self._torque is None:
            answer = await self._ask(*self.version_command)
            said = f"{answer.out}\n{answer.err}"
            pro = "pbs_version" in said
            if answer.code != 0 or not (pro or re.search(r"^\s*version:", said, re.I | re.M)):
                words = said.strip() or "qstat --version does not say if this is PBS Pro or Torque"
                raise SchedulerUnavailable(self.name, words)
            self._torque = not pro

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        return short_name(prefix, super().unique_name(prefix, run_id, number, position))

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        walltime = options.get("walltime")
        seconds = self.walltime_seconds(walltime)
        if seconds is None or "-" not in str(walltime):
            return dict(options)
        # PBS knows no days; pbs_resources(7B), "walltime".
        return {**options, "walltime": hours_minutes_seconds(seconds)}

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        words = plain_arguments(job.name)
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words += ["-t" if self._torque else "-J", f"0-{job.n_tasks - 1}{throttle}"]
        return words

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        index = '"${PBS_ARRAY_INDEX:-$PBS_ARRAYID}"' if is_array(job, array=array) else "0"
        return [log_line(job, log_directory, index)]

    def amended(
        self, script: str, job: PlannedJob, log_directory: str, *, array: bool, after: str | None
    ) -> str:
        return without_name(script)

    def after_argument(self, job_id: str) -> list[str]:
        kind = "afteranyarray" if self._torque and "[" in job_id else "afterany"
        return ["-W", f"depend={kind}:{job_id}"]

    def job_ids(self, output: str) -> list[str]:
        return id_lines(output, _JOB_ID)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else job_id.replace("[]", f"[{index}]")

    async def max_array_size(self) -> int:
        answer = await self._ask("qstat", "-B", "-f")
        require_done(self.name, answer, _GONE)
        found = re.search(r"^\s*max_(?:job_)?array_size = (\d+)", answer.out, re.MULTILINE)
        return int(found[1]) if found else _MOST_TASKS

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        if not keys.by_name:
            return {}
        ids = list(keys.by_id)
        if keys.unrecorded:
            unknown = keys.by_name.keys() - {job.name for _, job in keys.by_id.values()}
            for user in sorted(keys.users):
                ids += (await self._ids(unknown, user)).values()
        states: dict[TaskKey, TaskState] = {}
        of_arrays: dict[TaskKey, TaskState] = {}
        for row in await self._rows(dict.fromkeys(ids), tasks=True):
            state = task_state(row.job_id, row.fields, torque=bool(self._torque))
            number, index = _parts(row.job_id)
            user = row.fields.get("Job_Owner", "").partition("@")[0]
            found = keys.job(number, _job_name(row), user, _created(row))
            if found is None:
                continue
            submission, job = found
            if index is not None:
                tasks = tasks_at(job, positions(index, job.n_tasks))
                states |= {(submission, task): state for task in tasks}
            elif "[]" not in number:
                states[submission, job.first_task] = state
            elif not self._torque and state.word != "B":
                # Of an array that has not begun, or is over, some servers list no tasks.
                tasks = range(job.first_task, job.first_task + job.n_tasks)
                of_arrays |= {(submission, task): state for task in tasks}
        return of_arrays | states

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        ids = await self._ids({job.name for job in planned}, user)
        return [AcceptedJob(name=name, job_id=ids[name]) for name in sorted(ids)]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        for ids in handfuls((job.job_id for job in jobs), _JOB_ID):
            answer = await self._ask("qdel", *ids)
            require_done(self.name, answer, _GONE)

    async def reasons(self, job_ids: Sequence[str]) -> str:
        rows = await self._rows(job_ids, tasks=False)
        words = {queued_words(row.job_id, row.fields) for row in rows}
        return ", ".join(sorted(words - {""}))

    async def _ids(self, names: Iterable[str], user: str) -> dict[str, str]:
        """Those of a user's jobs that have one of these names: name -> id."""
        wanted = set(names)
        await self.prepare()
        # Torque gives each task of an array a name of its own.
        only = ["-N", *wanted] if len(wanted) == 1 and not self._torque else []
        answer = await self._with_ended("qselect", "-u", user, *only)
        require_done(self.name, answer, _GONE)
        jobs = dict.fromkeys(_parts(job_id)[0] for job_id in answer.out.split())
        rows = await self._rows(jobs, tasks=False)
        return {_job_name(row): _parts(row.job_id)[0] for row in rows if _job_name(row) in wanted}

    async def _rows(self, job_ids: Iterable[str], *, tasks: bool) -> list[_Row]:
        """What is known of jobs, and of each task of arrays among them."""
        await self.prepare()
        rows: list[_Row] = []
        for ids in handfuls(job_ids, _JOB_ID):
            # Both print this form, in all versions, and nothing in a job's variables makes it
            # unreadable, as it does the JSON of PBS Pro.
            answer = await self._with_ended("qstat", "-f", *(["-t"] if tasks else []), *ids)
            require_done(self.name, answer, _GONE)
            rows += _parsed(answer.out)
        return rows

    async def _with_ended(self, command: str, *words: str) -> Answer:
        """Ask for jobs that have ended, too, where they have to be asked for."""
        if not self._torque:
            answer = await self._ask(command, "-x", *words)
            if "maintain job history" not in answer.err:
                return answer
        return await self._ask(command, *words)

    async def _ask(self, *command: str) -> Answer:
        return await ask(self.name, command, environ=self.scrubbed(os.environ))


def _parsed(output: str) -> Iterator[_Row]:
    """The jobs in what `qstat -f` printed, whose long lines go on behind a tab."""
    for block in re.split(r"^Job Id: *", output.replace("\n\t", ""), flags=re.MULTILINE)[1:]:
        job_id = block.partition("\n")[0].strip()
        fields: dict[str, str] = {}
        for name, value in _FIELD.findall(block):
            fields.setdefault(name, value)  # variables of the job, which may look like one, follow
        yield _Row(job_id, fields)


def _parts(job_id: str) -> tuple[str, str | None]:
    """The id of the job that a task belongs to, and the task's index in it.

    >>> _parts("12[3].pbs"), _parts("12[].pbs"), _parts("12.pbs")
    (('12[].pbs', '3'), ('12[].pbs', None), ('12.pbs', None))
    """
    found = re.fullmatch(r"(\d+)\[(\d+)\](.*)", job_id)
    return (f"{found[1]}[]{found[3]}", found[2]) if found else (job_id, None)


def _job_name(row: _Row) -> str:
    """The name that the job was given; Torque appends the index to those of an array's tasks."""
    return re.sub(r"(-\d+|\[\d+\])$", "", row.fields.get("Job_Name", ""))


def _created(row: _Row) -> float | None:
    """When a job was submitted, in seconds since 1970."""
    try:
        return datetime.strptime(row.fields.get("ctime", ""), "%a %b %d %H:%M:%S %Y").timestamp()
    except ValueError:
        return None


SCHEDULER = PbsScheduler
