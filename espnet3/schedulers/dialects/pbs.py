"""PBS's dialect: PBS Pro (and OpenPBS) from 2020 on, and Torque from 2.5 on.

Checked on OpenPBS 23.06.06, with job history and without, and, for Torque, against the manual pages
of 6.1. The tests have stand-ins, which say what the real server said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.dialect_helpers import id_chunks, is_array, log_line
from espnet3.schedulers.job_keys import EVERY, JobKeys, Row
from espnet3.schedulers.qstat_output import Told, parsed, parts
from espnet3.schedulers.qsub import ended, id_lines, plain_arguments, short_name, without_name
from espnet3.schedulers.walltimes import clock_seconds, in_hours
from espnet3.specs.models import PlannedJob

if TYPE_CHECKING:
    from pydantic import JsonValue

# Where the server does not say; pbs_server_attributes(7B). Torque has no limit then.
_MOST_TASKS = 10000
_JOB_ID = re.compile(r"[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9._-]+)?")
# With an exit code of 0 as well as with others.
_NO_HISTORY = re.compile(r"(\w+: )?PBS is not configured to maintain job history", re.I)
# From pbs_job_attributes(7B), and what OpenPBS 23.06.06 said.
_QUEUED = frozenset("QHWTM")
_RUNNING = frozenset("RESUB")
# Substates, PBS Pro: of a job that was deleted, and of an array that has begun. Without job history
# a task that has ended before its array shows the array's, and the array's exit status with it.
_TERMINATED, _BEGUN = "91", "70"


class Pbs(Dialect):
    """PBS Pro through qsub, qstat, qselect and qdel, or Torque; `identify` finds out which."""

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
    reserved: ClassVar[Mapping[str, str]] = {
        "job_name": "-N",
        "log_directory": "-[oejk]",
        "array": "-[Jt]",
        "stay": r"-I|(-W)?(.*,)?block=true",
    }
    gone = re.compile(
        r"unknown job ?id|job has finished|invalid state for job|nonexistent job id|"
        r"invalid for finished array subjob",
        re.IGNORECASE,
    )
    is_torque: ClassVar[bool] = False
    array_option: ClassVar[str] = "-J"

    def task(self, environ: Mapping[str, str]) -> Task:
        index = environ.get("PBS_ARRAY_INDEX") or environ.get("PBS_ARRAYID") or ""
        own = environ.get("PBS_JOBID")
        # Arrays can always be rerun, and no variable tells it.
        return Task(int(index) if index.isdecimal() else None, own, own is not None)

    def identify(self) -> Dialogue[Dialect]:
        answer = yield from asking(*self.version_command, strict=False)
        said = f"{answer.out}\n{answer.err}"
        pro = "pbs_version" in said
        if answer.code != 0 or not (pro or re.search(r"^\s*version:", said, re.I | re.M)):
            words = said.strip() or "qstat --version does not say if this is PBS Pro or Torque"
            raise SchedulerUnavailable(self.name, words)
        return self if pro else Torque()

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        return short_name(prefix, run_id, number, position)

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        # PBS knows no days; pbs_resources(7B), "walltime".
        return in_hours(options, self.walltime_seconds(options.get("walltime")))

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        words, index = plain_arguments(job.name), "0"
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words += [self.array_option, f"0-{job.n_tasks - 1}{throttle}"]
            index = '"${PBS_ARRAY_INDEX:-$PBS_ARRAYID}"'
        if after:
            words += ["-W", f"depend={self.after_any(after)}"]
        return JobParts(words, [log_line(job, logs, index)], without_name)

    def after_any(self, job_ids: Sequence[str]) -> str:
        """The dependency on the ends of jobs and of whole arrays."""
        return f"afterany:{':'.join(job_ids)}"

    def job_ids(self, output: str) -> list[str]:
        return id_lines(output, _JOB_ID)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else job_id.replace("[]", f"[{index}]")

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        answer = yield from asking("qstat", "-B", "-f")
        found = re.search(r"^\s*max_(?:job_)?array_size = (\d+)", answer.out, re.MULTILINE)
        return int(found[1]) if found else _MOST_TASKS

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        ids = list(keys.by_id)
        if keys.unrecorded:
            for user in sorted(keys.users):
                ids += (yield from self._ids(keys.unrecorded_names(), user)).values()
        told = yield from self._told(dict.fromkeys(ids), tasks=True)
        never = yield from self._never(told)
        of_arrays: list[Row] = []
        rows: list[Row] = []
        for job in told:
            whole, index = parts(job.job_id)
            array = index is None and "[]" in whole
            state = array_state(job) if array else self.task_state(job)
            if whole in never and state.state == "queued":
                state = state._replace(reason=never[whole])
            row = Row(whole, state, job.name, job.user, job.created, index or "")
            if not array:
                rows.append(row)
            elif not self.is_torque and state.word != "B":
                # Of an array that has not begun, or is over, some servers list no tasks.
                of_arrays.append(row._replace(indices=EVERY))
        return [*of_arrays, *rows]

    def task_state(self, job: Told) -> TaskState:
        """What `qstat -f` tells of a task, or of a job that is not an array."""
        word = job.fields.get("job_state", "")
        if word in _QUEUED:
            return TaskState("queued", word, queued_words(job))
        if word in _RUNNING:
            return TaskState("running", word, _comment(job.fields) if word in "SU" else "")
        return _ended(job.fields, torque=self.is_torque)

    def _never(self, told: Sequence[Told]) -> Dialogue[dict[str, str]]:
        """Those of the jobs that wait for a job which is over, and so for ever; and the words.

        PBS releases what waits for a job at that job's end, but not where a single job
        is deleted before it began.
        """
        waiting = {parts(job.job_id)[0]: ids for job in told if (ids := waited_for(job.fields))}
        live = {
            short_id(job_id)
            for job in told
            if not is_over(job.fields)
            for job_id in (job.job_id, parts(job.job_id)[0])
        }
        unknown = {i for ids in waiting.values() for i in ids if short_id(i) not in live}
        if not unknown:
            return {}
        others = yield from self._told(sorted(unknown), tasks=False)
        live |= {short_id(job.job_id) for job in others if not is_over(job.fields)}
        over = {i for i in unknown if short_id(i) not in live}
        suspects = [job_id for job_id, awaited in waiting.items() if over.intersection(awaited)]
        # One that ended a moment ago may have released them since.
        again = yield from self._told(suspects, tasks=False)
        held = {job.job_id: over.intersection(waited_for(job.fields)) for job in again}
        return {job_id: never_starts(sorted(ids)) for job_id, ids in held.items() if ids}

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        return (yield from self._ids([job.name for job in planned], user))

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        told = yield from self._told(job_ids, tasks=False)
        return sorted({queued_words(job) for job in told} - {""})

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        for ids in id_chunks(job_ids, _JOB_ID):
            yield from asking("qdel", *ids)

    def _ids(self, names: Sequence[str], user: str) -> Dialogue[dict[str, str]]:
        """Those of a user's jobs that have one of these names: name -> id."""
        # Torque gives each task of an array a name of its own.
        only = ["-N", *names] if len(names) == 1 and not self.is_torque else []
        answer = yield from self._with_ended("qselect", "-u", user, *only)
        jobs = dict.fromkeys(parts(job_id)[0] for job_id in answer.out.split())
        told = yield from self._told(jobs, tasks=False)
        return {job.name: parts(job.job_id)[0] for job in told if job.name in names}

    def _told(self, job_ids: Iterable[str], *, tasks: bool) -> Dialogue[list[Told]]:
        """What is known of jobs, and of each task of arrays among them."""
        told: list[Told] = []
        for ids in id_chunks(job_ids, _JOB_ID):
            # Both print this form, in all versions, and nothing in a job's variables makes it
            # unreadable, as it does the JSON of PBS Pro.
            answer = yield from self._with_ended("qstat", "-f", *(["-t"] if tasks else []), *ids)
            told += parsed(answer.out, ids)
        return told

    def _with_ended(self, command: str, *words: str) -> Dialogue[Answer]:
        """Ask for jobs that have ended, too, where they have to be asked for."""
        if not self.is_torque:
            answer = yield from asking(command, "-x", *words, strict=False)
            if not (_NO_HISTORY.search(answer.err) or _NO_HISTORY.match(answer.out)):
                return self.require(answer)
        return (yield from asking(command, *words))


class Torque(Pbs):
    """Torque, which has other words for arrays and other exit statuses."""

    is_torque = True
    array_option = "-t"

    def after_any(self, job_ids: Sequence[str]) -> str:
        # Both kinds in one list are taken from 6.0.2 on.
        arrays = [job_id for job_id in job_ids if "[" in job_id]
        jobs = [job_id for job_id in job_ids if "[" not in job_id]
        kinds = {"afterany": jobs, "afteranyarray": arrays}
        return ",".join(f"{kind}:{':'.join(ids)}" for kind, ids in kinds.items() if ids)


def array_state(job: Told) -> TaskState:
    """What an array's own row tells of those of its tasks that are not listed, in PBS Pro.

    How they ended is not in it: its exit status is not a task's.

    Example:
        >>> fields = {"job_state": "F", "substate": "93", "Exit_status": "1"}
        >>> array_state(Told("7[].pbs", fields))
        TaskState(state='ended', word='', reason='', signal=0, stopped='', begun=True)
    """
    if not is_over(job.fields):
        return DIALECT.task_state(job)
    stopped = "cancelled" if job.fields.get("substate") == _TERMINATED else ""
    return TaskState("ended", stopped=stopped)


def is_over(fields: Mapping[str, str]) -> bool:
    """Whether a job, an array or a task has ended."""
    return fields.get("job_state", "") not in _QUEUED | _RUNNING


def queued_words(job: Told) -> str:
    """Why a job waits, for a person; "" where PBS does not say.

    >>> queued_words(Told("7.pbs", {"job_state": "H", "Hold_Types": "u"}))
    'held, `qrls 7.pbs` lets it start'
    >>> queued_words(Told("7[1].pbs", {"job_state": "Q", "Hold_Types": "u"}))
    'held, `qrls 7[].pbs` lets it start'
    """
    job_id, fields = job
    word, holds = fields.get("job_state", ""), _holds(fields)
    said: list[str] = []
    if awaited := waited_for(fields):
        said.append(f"waits for job {', '.join(map(short_id, awaited))}")
    if "u" in holds:
        # In PBS Pro it is the whole array that is held, and its tasks are Q; a task cannot be.
        name = job_id if word == "H" else parts(job_id)[0]
        said.append(f"held, `qrls {name}` lets it start")
    if "l" in holds:  # Torque
        said.append("as many tasks of its array run as may at a time")
    if (word == "H" or holds) and not said:
        said.append("held by PBS or an administrator")
    if word == "W":
        said.append("waits for its start time")
    elif word in ("T", "M"):
        said.append("is moved to another server or node")
    return ", ".join(filter(None, [*said, _comment(fields)]))


def waited_for(fields: Mapping[str, str]) -> list[str]:
    """Ids of the jobs that a job is held for.

    Those of its `depend` that begin with `before` wait for it.

    Example:
        >>> depend = "afterany:172.pbs@pbs,beforeany:174.pbs@pbs"
        >>> waited_for({"job_state": "H", "Hold_Types": "s", "depend": depend})
        ['172.pbs']
    """
    holds = _holds(fields)
    if "s" not in holds and (holds or fields.get("job_state") != "H"):
        return []
    ids: list[str] = []
    for part in fields.get("depend", "").split(","):
        kind, *others = part.split(":")
        if kind.strip().startswith("after"):
            ids += [other.partition("@")[0] for other in others if other[:1].isdecimal()]
    return list(dict.fromkeys(ids))


def never_starts(job_ids: Sequence[str]) -> str:
    """What to say of a job that waits for jobs which were deleted before they began.

    >>> never_starts(["172.pbs"])
    'never starts, since job 172 was deleted before it began; cancel and resume the run'
    """
    ids = ", ".join(map(short_id, job_ids))
    return f"never starts, since job {ids} was deleted before it began; cancel and resume the run"


def short_id(job_id: str) -> str:
    """A job's id without its server's name.

    >>> short_id("12[].head.site"), short_id("7.pbs")
    ('12[]', '7')
    """
    return job_id.partition(".")[0]


def _holds(fields: Mapping[str, str]) -> str:
    """The letters of a job's holds; "n" is for none."""
    return fields.get("Hold_Types", "").replace("n", "")


def _comment(fields: Mapping[str, str]) -> str:
    comment = fields.get("comment", "").strip()
    # What follows "Began" or "run" is when and where an earlier attempt started.
    if re.match(r"Job (Array Began|run|was sent)|Subjob (run|finished|failed|terminated)", comment):
        return ""
    return re.sub(r"^Not Running: ", "", comment)


def _ended(fields: Mapping[str, str], *, torque: bool) -> TaskState:
    if fields.get("substate") == _BEGUN:
        return TaskState("ended")
    used = clock_seconds(fields.get("resources_used.walltime"), lone="seconds")
    limit = clock_seconds(fields.get("Resource_List.walltime"), lone="seconds")
    cancelled = fields.get("substate") == _TERMINATED
    status = fields.get("Exit_status", fields.get("exit_status", ""))
    return ended(
        "" if cancelled and used is None else status,  # of a task that never ran it is the array's
        torque=torque,
        over=used is not None and limit is not None and used >= limit,
        cancelled=cancelled,
    )


DIALECT = Pbs()
