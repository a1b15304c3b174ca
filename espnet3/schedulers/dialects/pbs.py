"""PBS's dialect: PBS Pro (and OpenPBS) from 2020 on, and Torque from 2.5 on.

Checked on OpenPBS 23.06.06, with job history and without, and, for Torque, against the manual pages
of 6.1. The tests have stand-ins, which say what the real server said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask, require_done
from espnet3.schedulers.dialects.pbs_rows import Row, parsed, parts
from espnet3.schedulers.dialects.pbs_words import (
    array_state,
    is_over,
    never_starts,
    queued_words,
    short_id,
    task_state,
    waited_for,
)
from espnet3.schedulers.dialects.qsub_style import (
    id_lines,
    plain_arguments,
    short_name,
    without_name,
)
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.scripts import handfuls, is_array, log_line
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob

if TYPE_CHECKING:
    from pydantic import JsonValue

# Where the server does not say; pbs_server_attributes(7B). Torque has no limit then.
_MOST_TASKS = 10000
_JOB_ID = re.compile(r"[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9._-]+)?")
# What they say of a job that has ended, or is about to.
_GONE = re.compile(
    r"unknown job ?id|job has finished|invalid state for job|nonexistent job id|"
    r"invalid for finished array subjob",
    re.I,
)
# With an exit code of 0 as well as with others.
_NO_HISTORY = re.compile(r"(\w+: )?PBS is not configured to maintain job history", re.I)


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
        rows = await self._rows(dict.fromkeys(ids), tasks=True)
        never = await self._never(rows)
        states: dict[TaskKey, TaskState] = {}
        of_arrays: dict[TaskKey, TaskState] = {}
        for row in rows:
            whole, index = parts(row.job_id)
            found = keys.job(whole, row.name, row.user, row.created)
            if found is None:
                continue
            submission, job = found
            is_array = index is None and "[]" in whole
            if is_array:
                state = array_state(row.job_id, row.fields)
            else:
                state = task_state(row.job_id, row.fields, torque=bool(self._torque))
            if whole in never and state.state == "queued":
                state = state._replace(reason=never[whole])
            if index is not None:
                tasks = tasks_at(job, positions(index, job.n_tasks))
                states |= {(submission, task): state for task in tasks}
            elif not is_array:
                states[submission, job.first_task] = state
            elif not self._torque and state.word != "B":
                # Of an array that has not begun, or is over, some servers list no tasks.
                tasks = range(job.first_task, job.first_task + job.n_tasks)
                of_arrays |= {(submission, task): state for task in tasks}
        return of_arrays | states

    async def _never(self, rows: Sequence[Row]) -> dict[str, str]:
        """Those of the jobs that wait for a job which is over, and so for ever; and the words.

        PBS releases what waits for a job at that job's end, but not where a job that is no array
        is deleted before it began.
        """
        waiting = {parts(row.job_id)[0]: ids for row in rows if (ids := waited_for(row.fields))}
        live = {
            short_id(job_id)
            for row in rows
            if not is_over(row.fields)
            for job_id in (row.job_id, parts(row.job_id)[0])
        }
        unknown = {i for ids in waiting.values() for i in ids if short_id(i) not in live}
        if not unknown:
            return {}
        others = await self._rows(sorted(unknown), tasks=False)
        live |= {short_id(row.job_id) for row in others if not is_over(row.fields)}
        over = {i for i in unknown if short_id(i) not in live}
        suspects = [job_id for job_id, awaited in waiting.items() if over.intersection(awaited)]
        # One that ended a moment ago may have released them since.
        again = await self._rows(suspects, tasks=False)
        held = {row.job_id: over.intersection(waited_for(row.fields)) for row in again}
        return {job_id: never_starts(sorted(ids)) for job_id, ids in held.items() if ids}

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
        jobs = dict.fromkeys(parts(job_id)[0] for job_id in answer.out.split())
        rows = await self._rows(jobs, tasks=False)
        return {row.name: parts(row.job_id)[0] for row in rows if row.name in wanted}

    async def _rows(self, job_ids: Iterable[str], *, tasks: bool) -> list[Row]:
        """What is known of jobs, and of each task of arrays among them."""
        await self.prepare()
        rows: list[Row] = []
        for ids in handfuls(job_ids, _JOB_ID):
            # Both print this form, in all versions, and nothing in a job's variables makes it
            # unreadable, as it does the JSON of PBS Pro.
            answer = await self._with_ended("qstat", "-f", *(["-t"] if tasks else []), *ids)
            require_done(self.name, answer, _GONE)
            rows += parsed(answer.out, ids)
        return rows

    async def _with_ended(self, command: str, *words: str) -> Answer:
        """Ask for jobs that have ended, too, where they have to be asked for."""
        if not self._torque:
            answer = await self._ask(command, "-x", *words)
            if not (_NO_HISTORY.search(answer.err) or _NO_HISTORY.match(answer.out)):
                return answer
        return await self._ask(command, *words)

    async def _ask(self, *command: str) -> Answer:
        return await ask(self.name, command, environ=self.scrubbed(os.environ))


SCHEDULER = PbsScheduler
