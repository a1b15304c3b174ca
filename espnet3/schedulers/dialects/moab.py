"""Moab's dialect: Moab Workload Manager 7 to 9, above Torque or Slurm.

From the manual of 9.1 and, for `showq --xml`, answers of real servers that users have published;
shown on a stand-in that keeps to them. No server could be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from espnet3._structs import Struct
from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.dialect_helpers import id_chunks, is_array, log_line
from espnet3.schedulers.dialects.pbs import Pbs
from espnet3.schedulers.dialects.slurm import Slurm
from espnet3.schedulers.excluded_nodes import host_names, option_values, with_directive
from espnet3.schedulers.job_keys import EVERY, JobKeys, Row
from espnet3.schedulers.qsub import ended, id_lines, plain_arguments, short_name, without_name
from espnet3.schedulers.walltimes import clock_seconds, in_hours
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

# A choice: Moab takes 100,000 (msub, -t), but hands each task to the resource manager as a job.
_MAX_ARRAY_SIZE = 1000
_JOB_ID = re.compile(r"([A-Za-z][\w-]*\.)?[0-9]+(\[[0-9]*\])?(\.[A-Za-z0-9._-]+)?")
# How many jobs are asked why they wait, one command each.
_EXPLAINED = 3
# What dask-jobqueue asks for by default, in PBS Pro's form.
_SELECT = re.compile(r"^#PBS -l select=1:ncpus=(\d+):mem=(\w+)$", re.MULTILINE)
_QUEUED = {
    "UserHold": "held, `mjobctl -u user {job_id}` lets it start",
    "SystemHold": "held by an administrator",
    "BatchHold": "held by Moab, as it cannot run; `checkjob {job_id}` says why",
    "Hold": "held, `checkjob {job_id}` says why",
    "Deferred": "Moab could not start it, and tries again later",
    "NotQueued": "the resource manager below Moab does not answer",
    "Migrated": "is handed to the resource manager below Moab",
}
# Of a job that is blocked but not held.
_BLOCKED = "blocked by a policy, or by a job that it waits for"
# Given back to the queue; it is listed there again.
_VACATED = "Vacated"


class _Told(Struct):
    """What `showq` tells of a job, an array or an array's task."""

    queue: str
    fields: Mapping[str, str]

    def ids(self) -> tuple[list[str], str | None]:
        """The ids of its job, Moab's own first, and its index in it; None for a single job."""
        ids = [_parts(self.fields.get(name, "")) for name in ("GJID", "JobID")]
        index = next((index for _, index in ids if index is not None), None)
        return [job_id for job_id, _ in ids if job_id], index

    def submission(self) -> tuple[str, float | None]:
        """Who submitted it, and when, in seconds since 1970."""
        when = self.fields.get("SubmissionTime", "")
        return self.fields.get("User", ""), float(when) if when.isdecimal() else None

    def state(self) -> TaskState:
        """The state."""
        return task_state(self.queue, self.fields)

    def is_vacated(self) -> bool:
        """Whether a job that has ended was preempted and given back to the queue."""
        return self.fields.get("State") == _VACATED

    @property
    def name(self) -> str:
        """The name that the job was given, without what may stand behind it for a task."""
        return re.split(r"\W", self.fields.get("JobName", ""), maxsplit=1)[0]


class Moab(Dialect):
    """Moab through msub, showq, checkjob and canceljob."""

    name = "moab"
    # The resource manager below leaves its own variables, too.
    within = ("MOAB_JOBID", *Pbs.within, *Slurm.within)
    inherited = ("MOAB_", *Pbs.inherited, *Slurm.inherited)
    kept = Pbs.kept | Slurm.kept
    unfit = Pbs.unfit | Slurm.unfit
    no_answer = re.compile(
        r"timed? ?out|cannot connect|communication (error|failure)|end of file|"
        r"connection (reset|refused)|server is (not available|busy)",
        re.IGNORECASE,
    )
    can_exclude = True
    version_command = ("showq", "--version")
    directive = Pbs.directive
    reserved: ClassVar[Mapping[str, str]] = {**Pbs.reserved, "stay": "-[IK]"}
    # Also of a job that is about to end.
    gone = re.compile(
        r"invalid job specified|(cannot|could not) locate job|"
        r"(already|is|has|been) (cancell?ed|completed?|removed)",
        re.IGNORECASE,
    )

    def task(self, environ: Mapping[str, str]) -> Task:
        index, own = environ.get("MOAB_JOBARRAYINDEX", ""), environ.get("MOAB_JOBID")
        # No variable tells whether it was started before.
        return Task(int(index) if index.isdecimal() else None, own, own is not None)

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        return short_name(prefix, run_id, number, position)

    def walltime_seconds(self, walltime: object) -> float | None:
        # [[DD:]HH:]MM:SS, and 1-12:00:00 as elsewhere.
        return clock_seconds(
            re.sub(r"^(\d+):(?=\d+:\d+:\d+$)", r"\1-", str(walltime)), lone="seconds"
        )

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        return in_hours(options, self.walltime_seconds(options.get("walltime")))

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        # -E hands a job Moab's own variables, and nothing of this environment.
        words = ["-E", *plain_arguments(job.name)]
        lines = [log_line(job, logs, "0")]
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words += ["-t", f"{job.name}.[0-{job.n_tasks - 1}]{throttle}"]
            # Without an index every task would take itself for the first one.
            lines = [
                log_line(job, logs, '"${MOAB_JOBARRAYINDEX:-unknown}"'),
                ': "${MOAB_JOBARRAYINDEX:?is not set here; set job_array: false}"',
            ]
        if after:
            words += ["-l", f"depend=afterany:{':'.join(after)}"]
        excluded = host_names(request.without_nodes)
        return JobParts(words, lines, partial(_with_own_lines, excluded))

    def job_ids(self, output: str) -> list[str]:
        return [_parts(job_id)[0] for job_id in id_lines(output, _JOB_ID)]

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}[{index}]"

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        yield from ()
        return _MAX_ARRAY_SIZE

    def problem(self, answer: Answer) -> str | None:
        lines = [*answer.err.splitlines(), *answer.out.splitlines()]
        errors = [line.strip() for line in lines if line.lstrip().startswith("ERROR")]
        problems = [line for line in errors if not self.gone.search(line)]
        if problems or (answer.code != 0 and not errors):
            said = "\n".join(problems) or answer.err or answer.out
            return said or f"exit code {answer.code}"
        return None

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        arrays: list[Row] = []
        vacated: list[Row] = []
        rows: list[Row] = []
        for told in (yield from self._showq(keys.users)):
            job_ids, index = told.ids()
            for job_id in job_ids:
                found = keys.job(job_id, told.name, *told.submission())
                if found is None:
                    continue
                row = Row(job_id, told.state(), told.name, *told.submission(), index or "")
                if index is None and found[1].n_tasks > 1:
                    # While an array's own row is listed, none of its tasks is taken for gone.
                    arrays.append(row._replace(state=array_state(row.state), indices=EVERY))
                else:  # what was vacated may be in the queue again
                    (vacated if told.is_vacated() else rows).append(row)
                break
        return [*reversed(arrays), *reversed(vacated), *rows]

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        said: list[str] = []
        for ids in id_chunks(job_ids[:_EXPLAINED], _JOB_ID):
            for job_id in ids:
                answer = yield from asking("checkjob", job_id)
                said += re.findall(r"^ *(?:NOTE|BLOCK MSG): +(.+?) *$", answer.out, re.MULTILINE)
        return dict.fromkeys(said)

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        for ids in id_chunks(job_ids, _JOB_ID):
            answer = yield from asking("canceljob", *ids, strict=False)
            if len(ids) > 1 and self.gone.search(answer.out + answer.err):
                # The manual does not say if it goes on behind a job that is gone.
                for job_id in ids:
                    yield from asking("canceljob", job_id)
            else:
                self.require(answer)

    def _showq(self, users: Iterable[str]) -> Dialogue[list[_Told]]:
        """The jobs of some users: first those that have not ended, then those that have.

        In this order, or a job that ends between the two questions would be in neither answer.
        """
        jobs: list[_Told] = []
        for more in ([], ["-c"]):
            for user in sorted(users):
                command = ("showq", *more, "--xml", "-w", f"user={user}")
                answer = yield from asking(*command, strict=False)
                said = one_line(answer.err.strip() or answer.out, 300)
                if answer.code != 0:
                    words = said or f"showq ended with exit code {answer.code}"
                    raise SchedulerUnavailable(self.name, words)
                found = _parsed(answer.out)
                if found is None:
                    words = f"showq printed no whole list of jobs: {said or 'nothing'}"
                    raise SchedulerUnavailable(self.name, words)
                jobs += found
        return jobs


def _with_own_lines(excluded: Sequence[str], script: str) -> str:
    script = _SELECT.sub(r"#PBS -l nodes=1:ppn=\1,mem=\2", without_name(script))
    if not excluded:
        return script
    # "Resource Manager Extensions", EXCLUDENODES
    resources = ",".join(option_values(script, "#PBS", "-l")).split(",")
    own = [r.partition("=")[2] for r in resources if r.lower().startswith("excludenodes=")]
    return with_directive(script, "#PBS", f"-l excludenodes={':'.join([*own, *excluded])}")


def _parsed(output: str) -> list[_Told] | None:
    """The jobs in what `showq --xml` printed; None where it is not all of it."""
    from xml.etree import ElementTree  # workers, which import the dialects, never come here

    try:
        # A site whose own commands print hostile XML runs whatever it likes in our jobs anyway.
        root = ElementTree.fromstring(output.strip())  # noqa: S314
    except ElementTree.ParseError:
        return None
    queues = root.findall("queue")
    return [
        _Told(queue.get("option", ""), job.attrib) for queue in queues for job in queue.iter("job")
    ] if queues else None  # fmt: skip


def _parts(job_id: str) -> tuple[str, str | None]:
    """The id of the job that a task belongs to, and the indices of it, or of some.

    >>> _parts("Moab.12[3]"), _parts("Moab.12"), _parts("12[4-9].head")
    (('Moab.12', '3'), ('Moab.12', None), ('12.head', '4-9'))
    """
    found = re.fullmatch(r"([^\[\]]*)\[([\d,:-]*)\]([^\[\]]*)", job_id)
    return (f"{found[1]}{found[3]}", found[2] or None) if found else (job_id, None)


def task_state(queue: str, row: Mapping[str, str]) -> TaskState:
    """What Moab tells of a task, or of a job that is not an array, as a TaskState.

    Args:
        queue: the list that it stands in: `active`, `eligible`, `blocked` or `completed`.
        row: its attributes by their names.
    """
    word = row.get("State", "")
    if queue == "completed":
        return _ended(row)
    if queue == "active":
        return TaskState("running", word, "" if word in ("Running", "Starting") else word.lower())
    said = _QUEUED.get(word, _BLOCKED if queue == "blocked" else "")
    return TaskState("queued", word, said.format(job_id=row.get("JobID", "")))


def array_state(state: TaskState) -> TaskState:
    """What an array's own row tells of those of its tasks that are not listed.

    How they ended is not in it: its completion code is not a task's.

    Args:
        state: the row's.

    Example:
        >>> array_state(TaskState("ended", "Completed", "exit code 1"))
        TaskState(state='ended', word='', reason='', signal=0, stopped='', begun=True)
    """
    if state.state != "ended":
        return state
    return TaskState("ended", stopped="cancelled" if state.stopped == "cancelled" else "")


def _ended(row: Mapping[str, str]) -> TaskState:
    # An exit status, or "CNCLD", or that with the status in parentheses.
    found = re.fullmatch(r"(CNCLD)?\(?(-?\d+)?\)?", row.get("CompletionCode", ""))
    cancelled = row.get("State") == "Removed" or bool(found and found[1])
    used, limit = _seconds(row.get("AWDuration")), _seconds(row.get("ReqAWDuration"))
    state = ended(
        (found and found[2]) or "",
        torque=True,  # the statuses below zero; Slurm, the other one, has none
        over=0 < limit <= used,
        cancelled=cancelled,
        scheduler="Moab",
    )
    preempted = not state.stopped and row.get("State") == _VACATED
    return state._replace(stopped="preempted") if preempted else state


def _seconds(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0


DIALECT = Moab()
