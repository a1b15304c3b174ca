"""LSF's dialect, for LSF 10.1.

Checked against its command and configuration references and on a stand-in that keeps to them; no
server could be had.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, SubmitCall, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialects.lsf_words import task_state
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.scripts import handfuls, is_array, log_line
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob

if TYPE_CHECKING:
    from pydantic import JsonValue

# lsb.params(5): MAX_JOB_ARRAY_SIZE, where bparams does not say.
_MOST_TASKS = 1000
_JOB_ID = re.compile(r"[1-9][0-9]*")  # bkill takes 0 for all of a user's jobs
# bjobs may be answered from a copy of the queue that is MBD_REFRESH_TIME old; lsb.params(5).
_UNSEEN = timedelta(seconds=30)
# Free text last, since it may have the delimiter in it.
_FORMAT = "jobid jobindex stat user exit_code job_name exit_reason pend_reason delimiter='^'"
_ROW = re.compile(r"(\d+)(?:\[\d+\])?\^(\d+)\^([A-Z_]+)\^" + r"([^^]*)\^" * 4 + "(.*)")
# What they say of a job that has ended, or that they have forgotten.
_GONE = re.compile(
    r"is not found|no (unfinished |matching )?job found|job has already finished", re.IGNORECASE
)
_WAITING = re.compile(r"please wait|still trying", re.IGNORECASE)


class _Row(NamedTuple):
    """What bjobs tells of a job, or of a task of an array, whose number is not 0 then."""

    job_id: str
    number: int
    state: str
    user: str
    exit_code: str
    name: str
    exit_reason: str
    pend_reason: str

    def told(self) -> TaskState:
        """The state."""
        task = f"{self.job_id}[{self.number}]" if self.number else self.job_id
        return task_state(task, self.state, self.exit_code, self.exit_reason, self.pend_reason)


class LsfScheduler(Scheduler):
    """LSF through bsub, bjobs, bkill and bparams."""

    name = "lsf"
    passes_environment = True
    within = ("LSB_JOBID",)
    # They keep the job's id from us, wait for its end, or only check what is asked for.
    unfit = frozenset({"BSUB_QUIET", "BSUB_QUIET2", "BSUB_BLOCK", "BSUB_CHK_RESREQ"})
    # The rest of LS_* may be anybody's, as LS_COLORS; BSUB_QUIET would keep the job's id from us.
    inherited = (
        "LSB_", "LSF_", "BSUB_", "LS_JOBPID", "LS_SUBCWD", "LS_EXEC", "LS_LICENSE_SERVER",
    )  # fmt: skip
    # Which cluster, and what users set for their jobs.
    kept = frozenset({
        "LSF_ENVDIR", "LSF_CONFDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_BINDIR", "LSF_MANDIR",
        "LSF_TOP", "LSF_EGO_ENVDIR", "LSF_LIM_API_NTRIES", "LSB_NTRIES", "LSB_API_CONNTIMEOUT",
        "LSB_API_RECVTIMEOUT", "LSB_DEFAULTQUEUE", "LSB_DEFAULTPROJECT", "LSB_DEFAULT_JOBGROUP",
        "LSB_DEFAULT_USERGROUP",
    })  # fmt: skip
    first_index = 1
    no_answer = re.compile(
        r"timed? ?out|please wait|not responding|still trying|failed in (sending|receiving)|"
        r"communication|cannot connect|library call|non-LSF host",
        re.IGNORECASE,
    )
    version_command = ("lsid",)
    directive = "#BSUB"
    settled: ClassVar[Mapping[str, str]] = {
        "job_name": "-J$",  # an array, too
        "log_directory": "-(oo?|eo?)$",
        "stay": "-(I[a-z]*|K)$",
    }

    # In a job.

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("LSB_JOBINDEX", "")
        return int(index) - self.first_index if index.isdecimal() and int(index) else None

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        job, index = environ.get("LSB_JOBID"), self.array_index(environ)
        return job if job is None or index is None else self.task_name(job, index)

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        # LSB_RESTART tells of a lost host and of bmig, but nothing of brequeue and of exit codes
        # that a queue requeues.
        return "LSB_JOBID" in environ

    # Submitting.

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # "Job Arrays": these characters alone, and 255 of them with the indices.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", prefix)[:100]
        name = super().unique_name(plain, run_id, number, position)
        return name if name[0].isalpha() else f"_{name}"

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        walltime = options.get("walltime")
        seconds = self.walltime_seconds(walltime)
        if seconds is None or re.fullmatch(r"([0-9]+:)?[0-9]+", str(walltime)):
            return dict(options)
        # -W knows neither seconds nor days.
        hours, minutes = divmod(math.ceil(seconds / 60), 60)
        return {**options, "walltime": f"{hours}:{minutes:02}"}

    def walltime_seconds(self, walltime: object) -> float | None:
        return clock_seconds(walltime, lone="minutes", pair="hours:minutes")

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        # What a job prints is kept on its node until it ends, and copied with a report to a path
        # in which "%" is special; so the script writes its log itself.
        name = job.name
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            name = f"{name}[1-{job.n_tasks}]{throttle}"
        return ["-J", name, "-o", "/dev/null"]

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        index = '"$LSB_JOBINDEX"' if is_array(job, array=array) else str(self.first_index)
        return [log_line(job, log_directory, index)]

    def amended(
        self, script: str, job: PlannedJob, log_directory: str, *, array: bool, after: str | None
    ) -> str:
        # The command line has the name; what users call a job may look like an option here.
        return re.sub(r"^#BSUB -J .*\n", "", script, count=1, flags=re.MULTILINE)

    def after_argument(self, job_id: str) -> list[str]:
        return ["-w", f"ended({job_id})"]

    def submit_call(
        self, command: Sequence[str], file: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        # As dask-jobqueue does it, but without its shell, which hides what bsub says. A script in
        # an argument is read, and spooled, only where LSB_BSUB_PARSE_SCRIPT is set.
        if options.get("use_stdin") is False:
            return SubmitCall([*command, file])
        return SubmitCall([*command], Path(file).read_text())

    def job_ids(self, output: str) -> list[str]:
        # "to queue <q>", "to default queue <q>".
        return re.findall(r"^\s*Job <([0-9]+)> is submitted\b", output, re.MULTILINE)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}[{index + self.first_index}]"

    async def max_array_size(self) -> int:
        answer = await self._ask("bparams", "-a")
        _check(answer)
        found = re.search(r"\bMAX_JOB_ARRAY_SIZE\s*=\s*(\d+)", answer.out)
        return int(found[1]) if found else _MOST_TASKS

    # Asking.

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        rows = await self._rows(keys.by_id)
        if keys.unrecorded:
            for user in sorted(keys.users):
                rows += await self._bjobs(user)
        states: dict[TaskKey, TaskState] = {}
        for row in rows:
            found = keys.job(row.job_id, row.name, row.user)
            if found is not None:
                submission, job = found
                where = positions(str(row.number), job.n_tasks, first=1) if row.number else [0]
                states |= {(submission, task): row.told() for task in tasks_at(job, where)}
        return states | _unseen(submissions, keys, states)

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = {job.name for job in planned}
        ids = {row.name: row.job_id for row in await self._bjobs(user) if row.name in names}
        return [AcceptedJob(name=name, job_id=ids[name]) for name in sorted(ids)]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        for ids in handfuls((job.job_id for job in jobs), _JOB_ID):
            _check(await self._ask("bkill", *ids))

    async def reasons(self, job_ids: Sequence[str]) -> str:
        states = [row.told() for row in await self._rows(job_ids)]
        words = {state.reason for state in states if state.state == "queued"}
        return ", ".join(sorted(words - {""}))

    async def _rows(self, job_ids: Iterable[str]) -> list[_Row]:
        """What is known of jobs, and of each task of arrays among them."""
        rows: list[_Row] = []
        for ids in handfuls(job_ids, _JOB_ID):
            rows += await self._bjobs("all", *ids)
        return rows

    async def _bjobs(self, user: str, *ids: str) -> list[_Row]:
        """Those of the ids, or all that a user has."""
        chosen = ("-a", "-u", user, "-noheader", "-o", _FORMAT)
        answer = await self._ask("bjobs", *chosen, *ids)
        _check(answer)
        return _parsed(answer.out)

    async def _ask(self, *command: str) -> Answer:
        # Without a number of tries they wait for ever for a server that is down, and their words
        # would be lost with them.
        environ = {"LSB_NTRIES": "5", **self.scrubbed(os.environ), "LC_ALL": "C"}
        return await ask(self.name, command, environ=environ)


def _check(answer: Answer) -> None:
    """Raise for what a command complains of, unless it is of jobs that are gone.

    Raises:
        SchedulerUnavailable: it failed.
    """
    said = f"{answer.err}\n{answer.out}"
    gone = _GONE.search(said) is not None
    problems = [
        line
        for line in answer.err.splitlines()
        if line.strip() and not _GONE.search(line) and not (gone and _WAITING.search(line))
    ]
    if answer.code != 0 and (problems or not gone):
        words = "\n".join(problems) or answer.out.strip() or f"exit code {answer.code}"
        raise SchedulerUnavailable(LsfScheduler.name, words)


def _parsed(output: str) -> list[_Row]:
    """The rows of bjobs; where a reason is so long that it has lines of its own, they go on."""
    rows: list[_Row] = []
    for line in output.splitlines():
        found = _ROW.fullmatch(line.strip())
        if found is not None:
            fields = ("" if text.strip() == "-" else text.strip() for text in found.groups()[2:])
            state, user, code, name, ended, pending = fields
            plain = re.sub(r"\[\d+\]$", "", name)
            rows.append(_Row(found[1], int(found[2]), state, user, code, plain, ended, pending))
        elif rows and line.strip() and not re.match(r"\d+(\[\d+\])?\^", line):
            rows[-1] = rows[-1]._replace(pend_reason=f"{rows[-1].pend_reason} {line.strip()}")
    return rows


def _unseen(
    submissions: Sequence[KnownSubmission], keys: JobKeys, states: Mapping[TaskKey, TaskState]
) -> dict[TaskKey, TaskState]:
    """The tasks that were submitted so shortly ago that bjobs may not show them yet."""
    since = datetime.now(UTC) - _UNSEEN
    new = {
        entry.submission.number
        for entry in submissions
        if entry.recorded is not None and entry.recorded.created > since
    }
    state = TaskState("queued", "", "LSF does not show it yet")
    return {key: state for key in keys.not_in(states)[0] if key[0] in new}


SCHEDULER = LsfScheduler
