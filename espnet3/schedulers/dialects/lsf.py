"""LSF's dialect, for LSF 10.1.

Checked against its command and configuration references and on a stand-in that keeps to them; no
server could be had.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from espnet3.schedulers.base import TaskState, plain_name
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import (
    Dialect,
    Dialogue,
    JobParts,
    JobRequest,
    SubmitCall,
    Task,
    asking,
)
from espnet3.schedulers.dialect_helpers import id_chunks, is_array, log_line
from espnet3.schedulers.excluded_nodes import (
    host_names,
    option_values,
    short_names,
    with_directive,
)
from espnet3.schedulers.job_keys import EVERY, JobKeys, Row
from espnet3.schedulers.walltimes import clock_seconds

if TYPE_CHECKING:
    from pydantic import JsonValue

# lsb.params(5): MAX_JOB_ARRAY_SIZE, where bparams does not say.
_MOST_TASKS = 1000
_JOB_ID = re.compile(r"[1-9][0-9]*")  # bkill takes 0 for all of a user's jobs
# bjobs may be answered from a copy of the queue that is MBD_REFRESH_TIME old; lsb.params(5).
_UNSEEN = 30.0  # seconds
# Free text last, since it may have the delimiter in it.
_FORMAT = "jobid jobindex stat user exit_code job_name exit_reason pend_reason delimiter='^'"
_ROW = re.compile(r"(\d+)(?:\[\d+\])?\^(\d+)\^([A-Z_]+)\^" + r"([^^]*)\^" * 4 + "(.*)")
_WAITING = re.compile(r"please wait|still trying", re.IGNORECASE)
_QUEUED = frozenset({"PEND", "PSUSP", "WAIT", "PROV"})
_ENDED = frozenset({"DONE", "EXIT", "POST_DONE", "POST_ERR"})
# "Termination reasons displayed by bacct, bhist, and bjobs".
STOPPED = {
    "TERM_RUNLIMIT": "time limit", "TERM_DEADLINE": "time limit",
    "TERM_MEMLIMIT": "out of memory", "TERM_SWAP": "out of memory",
    "TERM_CPULIMIT": "a limit of processor time",
    "TERM_PROCESSLIMIT": "a limit of processes", "TERM_THREADLIMIT": "a limit of threads",
    "TERM_OWNER": "cancelled", "TERM_FORCE_OWNER": "cancelled", "TERM_ADMIN": "cancelled",
    "TERM_FORCE_ADMIN": "cancelled", "TERM_BUCKET_KILL": "cancelled",
    "TERM_ORPHAN_SYSTEM": "cancelled",
    "TERM_PREEMPT": "preempted", "TERM_LOAD": "preempted", "TERM_WINDOW": "preempted",
    "TERM_RC_RECLAIM": "preempted",
    "TERM_REMOVE_HUNG_JOB": "node failed", "TERM_ZOMBIE": "node failed",
}  # fmt: skip


class Lsf(Dialect):
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
    can_exclude = True
    no_answer = re.compile(
        r"timed? ?out|please wait|not responding|still trying|failed in (sending|receiving)|"
        r"communication|cannot connect|library call|non-LSF host",
        re.IGNORECASE,
    )
    version_command = ("lsid",)
    directive = "#BSUB"
    reserved: ClassVar[Mapping[str, str]] = {
        "job_name": "-J$",  # an array, too
        "log_directory": "-(oo?|eo?)$",
        "stay": "-(I[a-z]*|K)$",
    }
    # Also of a job that they have forgotten.
    gone = re.compile(
        r"is not found|no (unfinished |matching )?job found|job has already finished",
        re.IGNORECASE,
    )

    def task(self, environ: Mapping[str, str]) -> Task:
        told, job = environ.get("LSB_JOBINDEX", ""), environ.get("LSB_JOBID")
        index = int(told) - self.first_index if told.isdecimal() and int(told) else None
        own = job if job is None or index is None else self.task_name(job, index)
        # LSB_RESTART tells of a lost host and of bmig, but nothing of brequeue and of exit codes
        # that a queue requeues.
        return Task(index, own, job is not None)

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # "Job Arrays": these characters alone, and 255 of them with the indices.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", prefix)[:100]
        name = plain_name(plain, run_id, number, position)
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

    def query_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Without a number of tries they wait for ever for a server that is down, and their words
        # would be lost with them.
        return {"LSB_NTRIES": "5", **self.scrubbed(environ), "LC_ALL": "C"}

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        # What a job prints is kept on its node until it ends, and copied with a report to a path
        # in which "%" is special; so the script writes its log itself.
        name, index = job.name, str(self.first_index)
        if is_array(job, array=array):
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            name, index = f"{name}[1-{job.n_tasks}]{throttle}", '"$LSB_JOBINDEX"'
        words = ["-J", name, "-o", "/dev/null"]
        if after:
            words += ["-w", " && ".join(f"ended({job_id})" for job_id in after)]
        excluded = host_names([*request.without_nodes, *short_names(request.without_nodes)])
        return JobParts(words, [log_line(job, logs, index)], partial(_amended, excluded))

    def submit_call(
        self, command: Sequence[str], file: str, script: str, options: Mapping[str, JsonValue]
    ) -> SubmitCall:
        # As dask-jobqueue does it, but without its shell, which hides what bsub says. A script in
        # an argument is read, and spooled, only where LSB_BSUB_PARSE_SCRIPT is set.
        if options.get("use_stdin") is False:
            return SubmitCall([*command, file])
        return SubmitCall([*command], script)

    def job_ids(self, output: str) -> list[str]:
        # "to queue <q>", "to default queue <q>".
        return re.findall(r"^\s*Job <([0-9]+)> is submitted\b", output, re.MULTILINE)

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}[{index + self.first_index}]"

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        answer = yield from asking("bparams", "-a")
        found = re.search(r"\bMAX_JOB_ARRAY_SIZE\s*=\s*(\d+)", answer.out)
        return int(found[1]) if found else _MOST_TASKS

    def problem(self, answer: Answer) -> str | None:
        gone = self.gone.search(f"{answer.err}\n{answer.out}") is not None
        problems = [
            line
            for line in answer.err.splitlines()
            if line.strip() and not self.gone.search(line) and not (gone and _WAITING.search(line))
        ]
        if answer.code != 0 and (problems or not gone):
            return "\n".join(problems) or answer.out.strip() or f"exit code {answer.code}"
        return None

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        # What was submitted so shortly ago that bjobs may not show it yet.
        unseen = TaskState("queued", "", "LSF does not show it yet")
        rows = [
            Row(job_id, unseen, indices=EVERY)
            for job_id, (number, _) in keys.by_id.items()
            if keys.accepted.get(number, 0.0) > keys.now - _UNSEEN
        ]
        for ids in id_chunks(keys.by_id, _JOB_ID):
            rows += yield from self._bjobs("all", *ids)
        for user in sorted(keys.users) if keys.unrecorded else ():
            rows += yield from self._bjobs(user)
        return rows

    def _bjobs(self, user: str, *ids: str) -> Dialogue[list[Row]]:
        """Those of the ids, or all that a user has."""
        answer = yield from asking("bjobs", "-a", "-u", user, "-noheader", "-o", _FORMAT, *ids)
        return parsed(answer.out)

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        for ids in id_chunks(job_ids, _JOB_ID):
            yield from asking("bkill", *ids)


def parsed(output: str) -> list[Row]:
    """The rows of bjobs; where a reason is so long that it has lines of its own, they go on."""
    told: list[list[str]] = []
    for line in output.splitlines():
        found = _ROW.fullmatch(line.strip())
        if found is not None:
            told.append(["" if text.strip() == "-" else text.strip() for text in found.groups()])
        elif told and line.strip() and not re.match(r"\d+(\[\d+\])?\^", line):
            told[-1][-1] += f" {line.strip()}"
    return [_row(*fields) for fields in told]


def _row(
    job_id: str, index: str, word: str, user: str, code: str, name: str, ended: str, pending: str
) -> Row:
    """What bjobs tells of a job, or of a task of an array, whose index is not 0 then."""
    index = "" if int(index) == 0 else str(int(index))
    state = task_state(f"{job_id}[{index}]" if index else job_id, word, code, ended, pending)
    return Row(job_id, state, re.sub(r"\[\d+\]$", "", name), user, indices=index)


def _amended(excluded: Sequence[str], script: str) -> str:
    """The script without its name, for the command line has it, and without some hosts.

    What users call a job may look like an option here.
    """
    script = re.sub(r"^#BSUB -J .*\n", "", script, count=1, flags=re.MULTILINE)
    # Simple requirements are merged by "and", compound and alternative ones cannot be.
    if not excluded or any("{" in value for value in option_values(script, "#BSUB", "-R")):
        return script
    others = " && ".join(f"hname!='{name}'" for name in excluded)
    return with_directive(script, "#BSUB", f'-R "select[{others}]"')


def task_state(
    name: str, word: str, code: str = "", exit_reason: str = "", pend_reason: str = ""
) -> TaskState:
    """What bjobs tells of a task, or of a job that is not an array, as a TaskState.

    Args:
        name: the task as bkill takes it.
        word: field `stat`.
        code: field `exit_code`; "" for none, as in the others.
        exit_reason: field `exit_reason`.
        pend_reason: field `pend_reason`.
    """
    if word in _QUEUED:
        return TaskState("queued", word, queued_words(name, word, pend_reason))
    if word in _ENDED:
        return _ended(code, exit_reason)
    # A word that is not known is never taken for an end.
    return TaskState("running", word, _running_words(name, word))


def queued_words(name: str, word: str, pend_reason: str) -> str:
    """Why a task waits, for a person; "" where LSF does not say.

    >>> queued_words("7[1]", "PSUSP", "")
    'held, `bresume 7[1]` lets it start'
    """
    if word == "PSUSP":
        return f"held, `bresume {name}` lets it start"
    return "; ".join(filter(None, (part.strip() for part in pend_reason.split(";"))))


def _running_words(name: str, word: str) -> str:
    return {
        "USUSP": f"suspended, `bresume {name}` lets it go on",
        "SSUSP": "suspended by LSF",
        "UNKWN": "its host does not answer",
        "ZOMBI": f"killed, but its host does not answer; `bkill -r {name}` gives it up",
    }.get(word, "")


def _ended(code: str, exit_reason: str) -> TaskState:
    status = int(code) if code.isdecimal() and len(code) < 10 else 0
    signal = status - 128 if 128 < status <= 128 + 64 else 0
    word, _, words = exit_reason.partition(":")
    stopped = STOPPED.get(word.strip(), "")
    told = "" if stopped else words.strip().rstrip(".")
    said = f"signal {signal}" if signal else f"exit code {status}" * bool(status)
    return TaskState("ended", "", ", ".join(filter(None, [told, said])), signal, stopped)


DIALECT = Lsf()
