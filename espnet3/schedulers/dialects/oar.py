"""OAR's dialect, checked against 2.5.9. Facts are from its manual pages unless said otherwise.

Every task of an array is a job with an id of its own; the array's id, by which oarstat and oardel
take all of them, is that of the first. A job that is not an array is one of one task.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState, plain_name
from espnet3.schedulers.dialect import (
    Dialect,
    Dialogue,
    JobParts,
    JobRequest,
    SubmitCall,
    Task,
    asking,
)
from espnet3.schedulers.dialect_helpers import is_array, log_line
from espnet3.schedulers.excluded_nodes import option_values, short_names, with_directive
from espnet3.schedulers.job_keys import JobKeys, Row
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import PlannedJob
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

Told = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # also of a user; no other reaches a command or OAR's SQL
_DIRECTIVE = "#OAR "
_MAX_ARRAY_SIZE = 1000  # a choice: OAR has no limit of its own, and takes 1 ms for each task
_AT_ONCE = 5000  # tasks in one question; oarstat takes about 3 ms for each
_IN_FULL = 200  # tasks whose exit codes are asked for; oarstat takes about 12 ms for each
_CANCELLING = 600.0  # seconds; oardel takes about 9 ms for each task

# What its words mean; the source of 2.5.9 names the events, the manual has no list of them.
_QUEUED = {
    "Waiting": "",
    "Hold": "held, `oarresume` lets it start",
    "toAckReservation": "its reservation is being made",
    "toLaunch": "is being started",
    "Launching": "is being started",
}
_ENDED = {"Terminated", "Error"}
# The first that is among a job's events tells why it ended. FRAG_JOB_REQUEST is the last, since OAR
# asks for the ends of jobs by it too.
_STOPPED = {
    "WALLTIME": "time limit",
    "BESTEFFORT_KILL": "preempted",
    "PING_CHECKER_NODE_SUSPECTED": "node failed",
    "PING_CHECKER_NODE_SUSPECTED_END_JOB": "node failed",
    "CPUSET_ERROR": "node failed",
    "LAUNCHING_OAREXEC_TIMEOUT": "node failed",
    "EXTERMINATE_JOB": "node failed",
    "FRAG_JOB_REQUEST": "cancelled",
}
# Events that do not tell why a job has ended.
_PLAIN = re.compile(r"SWITCH_INTO_|SEND_KILL_JOB|SCHEDULER_PRIORITY_|CHECKPOINT|SIG")


class Oar(Dialect):
    """OAR through oarsub, oarstat and oardel."""

    name = "oar"
    within = ("OAR_JOB_ID",)
    inherited = ("OAR_", "OARDO_")
    kept = frozenset({"OAR_JOB_KEY_FILE"})  # a user's setting for oarsub and oarsh
    first_index = 1
    can_throttle = False
    can_exclude = True
    version_command = ("oarsub", "--version")
    directive = "#OAR"
    reserved: ClassVar[Mapping[str, str]] = {
        "job_name": r"-n|--name\b",
        "log_directory": r"-[OE]|--std(out|err)\b",
        "array": r"--array\b",
        "stay": r"-[ICS]|--(interactive|connect|scanscript)\b",
    }
    # Without OAR's server the job is in its database all the same, although oarsub says "killed".
    no_answer = re.compile(r"Cannot connect to executor|DB connection error|timed? ?out", re.I)
    gone = re.compile(r"(was already killed\.|is not a valid array job)\s*$")

    def task(self, environ: Mapping[str, str]) -> Task:
        # A job that OAR submits again has the array and index of the first one, and a new id.
        names = ("OAR_JOB_ID", "OAR_ARRAY_ID", "OAR_ARRAY_INDEX")
        job, array, index = (int(environ.get(name, "0")) for name in names)
        own = int(environ[names[2]]) - 1 if names[2] in environ else None
        return Task(own, environ.get("OAR_JOB_ID"), job > array + index - 1 if index else False)

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # At most 100 characters; a quote would end OAR's own quotes, in SQL and in the job's Perl.
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", prefix)[:40]
        return plain_name(clean, run_id, number, position)

    def walltime_seconds(self, walltime: object) -> float | None:
        if "-" in str(walltime):  # OAR knows no days
            return None
        return clock_seconds(walltime, lone="hours", pair="hours:minutes")

    def awaited(self, job_ids: Sequence[str]) -> Dialogue[Sequence[str]]:
        # An array's id is its first task's, and the others' need not follow it.
        arrays = [job_id for job_id in job_ids if job_id.isdecimal()]
        if not arrays:
            return job_ids
        live = f"(array_id in ({','.join(arrays)}) and state not in ({_quoted(sorted(_ENDED))}))"
        told = yield from self._told(live)
        tasks = [
            str(job["Job_Id"])
            for job in told
            if str(job["array_id"]) in arrays and str(job["state"]) not in _ENDED
        ]
        others = [job_id for job_id in job_ids if job_id not in arrays]
        return [*others, *sorted(tasks, key=int)]

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        # What precedes the redirection, and OAR's own remarks, of all tasks. oarsub refuses names
        # of files with other characters.
        file = f"{logs}/{job.log.replace('{index}', 'oar')}"
        file = file if re.fullmatch(r"[A-Za-z0-9_./-]+", file) else "/dev/null"
        words = [f"--name={job.name}", f"--stdout={file}", f"--stderr={file}"]
        if is_array(job, array=array):
            words.append(f"--array={job.n_tasks}")
        # Any end, also an error or a cancellation.
        words += [f"--anterior={job_id}" for job_id in after]
        excluded = short_names(request.without_nodes)
        amend = partial(_without_nodes, excluded) if excluded else str
        return JobParts(words, [log_line(job, logs, '"$OAR_ARRAY_INDEX"')], amend)

    def submit_call(
        self, command: Sequence[str], file: str, script: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        # As dask-jobqueue does it: OAR would read the script's file only when the job starts, and
        # takes the script itself in place of its name. The user's login shell runs it.
        lines = script.splitlines(keepends=True)
        directives = " ".join(
            line.removeprefix(_DIRECTIVE).strip() for line in lines if line.startswith(_DIRECTIVE)
        )
        plain = "".join(line for line in lines if not line.startswith(("#!", _DIRECTIVE)))
        return SubmitCall([command[0], *shlex.split(directives), *command[1:], plain])

    def job_ids(self, output: str) -> list[str]:
        # An array has one OAR_JOB_ID line per task; a refusal has -5 or nothing in that place.
        ids = re.findall(r"^OAR_ARRAY_ID=(\d+)\s*$", output, re.MULTILINE)
        return ids or re.findall(r"^OAR_JOB_ID=(\d+)\s*$", output, re.MULTILINE)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id} (index {index + self.first_index})"

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        yield from ()
        return _MAX_ARRAY_SIZE

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        rows: list[Row] = []
        for place in _places(keys):
            rows += yield from self._look(keys, place)
        return rows

    def _look(self, keys: JobKeys, place: str) -> Dialogue[list[Row]]:
        # What ended well needs no words, and in a large run that is most.
        well = "state = 'Terminated' and coalesce(exit_code, 1) = 0"
        told = yield from self._told(f"({place}) and not ({well})")
        newest: dict[tuple[str, str], Row] = {}
        messages: dict[tuple[str, str], tuple[str, str, str]] = {}
        for job in sorted(told, key=lambda job: int(job["Job_Id"])):  # see `task`
            row = _row(job)
            if row.user in keys.users and keys.job(row.job_id, row.name, row.user, row.submitted):
                newest[row.job_id, row.indices] = row
                message = str(job["message"] or "")
                messages[row.job_id, row.indices] = str(job["Job_Id"]), str(job["state"]), message
        failed = [own for own, state, _ in messages.values() if state == "Terminated"]
        stopped = [own for own, state, _ in messages.values() if state == "Error"]
        statuses = (yield from self._statuses(failed)) if failed else {}
        events = (yield from self._events(stopped)) if stopped else {}
        return [
            row._replace(state=task_state(state, message, statuses.get(own), events.get(own, ())))
            for row, (own, state, message) in zip(newest.values(), messages.values(), strict=True)
        ]

    def _statuses(self, ids: Sequence[str]) -> Dialogue[dict[str, int]]:
        """Job id -> how its command ended, as wait(2) says it; only oarstat --full tells."""
        # Those that a signal has ended first: they have the smallest numbers.
        place = f"job_id in ({','.join(ids)}) order by exit_code limit {_IN_FULL}"
        told = yield from self._told(place, "--full", complete=False)
        return {str(job["Job_Id"]): int(job["exit_code"]) for job in told if job["exit_code"]}

    def _events(self, ids: Sequence[str]) -> Dialogue[dict[str, list[tuple[str, str]]]]:
        """Job id -> its events, each a type and a description."""
        answer = yield from asking("oarstat", "--events", *(f"--job={number}" for number in ids))
        found: dict[str, list[tuple[str, str]]] = {}
        pattern = r"^[-\d]+ [:\d]+> \[(\d+)\] (\w+): (.*)$"
        for number, kind, description in re.findall(pattern, answer.out, re.MULTILINE):
            found.setdefault(number, []).append((kind, description))
        return found

    def _told(self, place: str, *options: str, complete: bool = True) -> Dialogue[list[Told]]:
        """The jobs that a condition of OAR's SQL describes.

        Args:
            place: the condition.
            options: more of oarstat's.
            complete: whether no jobs at all are told from a question that the database did not
                understand, of which oarstat says nothing.
        """
        newest = "(select max(job_id) from jobs)"
        asked = f"{place} or job_id = {newest}" if complete else place
        answer = yield from asking("oarstat", "--json", *options, "--sql", asked, strict=False)
        said = one_line(answer.err or answer.out, 300)
        _, brace, rest = answer.out.partition("{")
        if answer.code != 0 or (complete and not brace):
            raise SchedulerUnavailable(self.name, said or "oarstat printed nothing")
        try:
            jobs: dict[str, Told] = json.JSONDecoder().raw_decode(brace + rest or "{}")[0]
        except ValueError:
            raise SchedulerUnavailable(self.name, f"oarstat printed no JSON: {said}") from None
        return list(jobs.values())

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        names = sorted(job.name for job in planned if _NAME.fullmatch(job.name))
        found: dict[str, str] = {}
        for start in range(0, len(names), 1000) if _NAME.fullmatch(user) else ():
            wanted = names[start : start + 1000]
            told = yield from self._told(f"{_one_of(wanted)} and job_user = '{user}'")
            rows = map(_row, told)
            found |= {row.name: row.job_id for row in rows if row.user == user}
        return found

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        ids = [job_id for job_id in job_ids if job_id.isdecimal()]
        told = (yield from self._told(f"job_id in ({','.join(ids)})")) if ids else []
        states = [_row(job).state for job in told if str(job["Job_Id"]) in ids]
        return sorted({f"{state.word} {state.reason}".strip() for state in states})

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        ids = [job_id for job_id in job_ids if job_id.isdecimal()]
        if not ids:
            return
        command = ("oardel", "--array", *ids)
        answer = yield from asking(*command, timeout=_CANCELLING, strict=False)
        # Its exit code is that of the last job that it did not cancel.
        told = [line for line in answer.err.splitlines() if not self.gone.search(line)]
        if answer.code not in (0, 4, 6) or any(map(str.strip, told)):
            raise SchedulerUnavailable(self.name, answer.err or answer.out)


def _without_nodes(nodes: Sequence[str], script: str) -> str:
    # Of several properties the last one counts.
    own = [f"({value})" for value in option_values(script, "#OAR", "-p", "--property")[-1:]]
    # "_" is any character to `like`.
    longer = [f"network_address not like '{name}.%'" for name in nodes if "_" not in name]
    condition = " and ".join([*own, f"network_address not in ({_quoted(nodes)})", *longer])
    return with_directive(script, "#OAR", shlex.join(["-p", condition]))


def _row(job: Told) -> Row:
    """What `oarstat --json` tells of a task."""
    when = job.get("submissionTime")
    return Row(
        str(job["array_id"]), task_state(str(job["state"]), str(job["message"] or "")),
        str(job["name"] or ""), str(job["owner"]), float(when) if isinstance(when, int) else None,
        str(job["array_index"]),
    )  # fmt: skip


def _places(keys: JobKeys) -> Iterator[str]:
    """Conditions that together describe all jobs with a wanted task."""
    ids = {job_id: job.n_tasks for job_id, (_, job) in keys.by_id.items() if job_id.isdecimal()}
    for part in _parts(ids):
        yield f"array_id in ({','.join(part)})"
    names = {
        name: keys.by_name[name][1].n_tasks
        for name in keys.unrecorded_names()
        if _NAME.fullmatch(name)
    }
    users = sorted(filter(_NAME.fullmatch, keys.users))
    for part in _parts(names) if users else ():
        yield f"{_one_of(part)} and job_user in ({_quoted(users)})"


def _parts(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """The names in lists whose sizes are `_AT_ONCE` together, or little more."""
    part: list[str] = []
    size = 0
    for name, own in sizes.items():
        part.append(name)
        size += own
        if size >= _AT_ONCE or len(part) >= 1000:
            yield part
            part, size = [], 0
    if part:
        yield part


def _one_of(names: Iterable[str]) -> str:
    return f"job_name in ({_quoted(names)})"


def _quoted(names: Iterable[str]) -> str:
    return ",".join(f"'{name}'" for name in names)


def task_state(
    state: str,
    message: str = "",
    status: int | None = None,
    events: Sequence[tuple[str, str]] = (),
) -> TaskState:
    """A job's state as a TaskState.

    Args:
        state: OAR's.
        message: OAR's, for a person.
        status: how the command ended, as wait(2) says it; None where that is not known.
        events: types and descriptions.
    """
    if state in _QUEUED:
        return TaskState("queued", state, _QUEUED[state] or waiting_words(message))
    if state not in _ENDED:
        return TaskState("running", state)
    kinds = {kind for kind, _ in events}
    why = next((kind for kind in _STOPPED if kind in kinds), None)
    if why is not None:
        return TaskState("ended", state, stopped=_STOPPED[why])
    if status is not None:
        number = status & 0x7F
        words = f"signal {number}" if number else f"exit code {status >> 8 & 0xFF}"
        return TaskState("ended", state, words, number)
    told = [description for kind, description in events if not _PLAIN.match(kind)]
    return TaskState("ended", state, re.sub(r"\[\w+ \d+\] ", "", ", ".join(told)))


def waiting_words(message: str) -> str:
    """Why a job waits.

    >>> waiting_words("R=1,W=2:0:0,J=B,N=decode (Karma=0.000,quota_ok)")
    ''
    >>> waiting_words("No enough matching resources (no_matching_slot)")
    'No enough matching resources (no_matching_slot)'
    """
    # Once it was scheduled, the message only repeats what was asked for.
    return "" if re.match(r"R=\d+,W=[\d:]+,J=", message) else message


DIALECT = Oar()
