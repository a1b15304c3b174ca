"""SGE's dialect, checked against Son of Grid Engine 8.1.9. Facts are from its manual pages."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from espnet3._structs import Struct
from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState, plain_name
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.dialect_helpers import log_line
from espnet3.schedulers.excluded_nodes import option_values, short_names, with_directive
from espnet3.schedulers.job_keys import JobKeys, Row, positions
from espnet3.schedulers.walltimes import clock_seconds, in_hours
from espnet3.specs.models import PlannedJob
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

# What a job finds in its environment besides SGE_*; sge_submit(1), "ENVIRONMENT VARIABLES".
_OF_JOBS = frozenset({
    "ARC", "ENVIRONMENT", "JOB_ID", "JOB_NAME", "JOB_SCRIPT", "NHOSTS", "NQUEUES", "NSLOTS", "PE",
    "PE_HOSTFILE", "QUEUE", "REQNAME", "REQUEST", "RESTARTED",
})  # fmt: skip
# sge_conf(5): max_aj_tasks, where the configuration does not say.
_MOST_TASKS = 75000
# qacct reads the whole accounting file, which a site may never have cut.
_PATIENCE = 20.0  # seconds
# -q undoes what a user's .sge_qstat may leave out, but hides jobs that no queue could run now, such
# as those that wait for free memory; so what it does not list is asked for without it.
_OF_QUEUES, _WAITING = ("-q", "*"), ()
_FIELDS = ("JB_job_number", "JB_name", "state", "tasks", "JB_owner")
# sge_status(5), "failed" values.
_LIMIT = 37
_SIGNALLED = {17, _LIMIT, 100}
_RERUN = {24, 25}
_EXITED_100 = 30


class _Details(Struct):
    """What `qstat -j` tells of a job: error reasons by task, whom it waits for, and obstacles."""

    errors: dict[int, str]
    after: str
    obstacles: list[str]


class Sge(Dialect):
    """SGE through qsub, qstat, qdel, qconf and, where its file can be read, qacct."""

    name = "sge"
    within = ("SGE_TASK_ID",)  # JOB_ID may be anybody's
    inherited = ("SGE_",)
    # Which cluster; the rest of SGE_* is left by a job, or only shapes what the clients print.
    kept = frozenset({
        "SGE_ROOT", "SGE_CELL", "SGE_ARCH", "SGE_CLUSTER_NAME", "SGE_QMASTER_PORT",
        "SGE_EXECD_PORT", "SGE_JSV_TIMEOUT",
    })  # fmt: skip
    first_index = 1
    can_exclude = True
    version_command = ("qstat", "-help")  # prints "SGE 8.1.9" first
    directive = "#$"
    reserved: ClassVar[Mapping[str, str]] = {
        "job_name": "-N$",
        "log_directory": "-[oej]$",
        "array": "-tc?$",
        "stay": "-(sync|verify)$",
    }
    no_answer = re.compile(r"timed? ?out|unable to (send|contact)|commlib error|gdi request", re.I)
    # Also of a job that is being deleted.
    gone = re.compile(r"does not exist|is already in deletion|has (registered|deleted) ")
    query_variables: ClassVar[Mapping[str, str]] = {"LC_ALL": "C"}  # its messages are translated

    def task(self, environ: Mapping[str, str]) -> Task:
        told, job = environ.get("SGE_TASK_ID", ""), environ.get("JOB_ID")
        index = int(told) - self.first_index if told.isdecimal() else None  # or "undefined"
        own = job if job is None or index is None else self.task_name(job, index)
        return Task(index, own, environ.get("RESTARTED", "0") != "0")

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # sge_types(5), "job_name"; blanks and other alphabets make qmaster hang up on qsub.
        plain = re.sub(r"[^A-Za-z0-9._+=-]", "_", prefix)[:100]
        name = plain_name(plain, run_id, number, position)
        return name if name[0].isalpha() else f"_{name}"

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        # h_rt is h:m:s or seconds only; sge_types(5), "time_specifier".
        return in_hours(options, self.walltime_seconds(options.get("walltime")), r"-|^\d+:\d+$")

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}.{index + self.first_index}"

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Such names are a job's only where there is a job; QUEUE may be anybody's elsewhere.
        left = _OF_JOBS if "SGE_TASK_ID" in environ else frozenset()
        return {n: value for n, value in super().scrubbed(environ).items() if n not in left}

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        file = job.log.replace("{index}", "$TASK_ID" if array else str(self.first_index))
        # -o takes host:path, lists and pseudo variables.
        plain = not re.search(r"[:,$]", logs)
        log = f"{logs}/{file}" if plain else "/dev/null"
        # With -notify SIGUSR2 comes before SIGKILL, at qdel and at h_rt. The first two undo what a
        # file of defaults may say, sge_request(5).
        words = ["-b", "n", "-sync", "n", "-terse", "-notify"]
        words += ["-N", job.name, "-j", "y", "-o", log]
        if array:
            words += ["-t", f"1-{job.n_tasks}"]
            words += [] if job.throttle is None else ["-tc", str(job.throttle)]
        if after:  # any end but exit code 100, which workers do not have
            words += ["-hold_jid", ",".join(after)]
        index = '"$SGE_TASK_ID"' if array else str(self.first_index)
        lines = [] if plain else [log_line(job, logs, index)]
        excluded = short_names(request.without_nodes)
        return JobParts(words, lines, partial(_without_nodes, excluded) if excluded else str)

    def job_ids(self, output: str) -> list[str]:
        # The synchronous mode goes without -terse, which prints "12" or "12.1-5:1".
        told = re.findall(r'^Your job(?:-array)? (\d+)\S* \(".*', output, re.MULTILINE)
        lone = r"^\s*(\d+)(?:\.\d+-\d+:\d+)?\s*$"
        return told or re.findall(lone, output, re.MULTILINE)

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        answer = yield from asking("qconf", "-sconf")
        found = re.search(r"^max_aj_tasks\s+(\d+)", answer.out, re.MULTILINE)
        # 0 is not a limit but that of the index.
        return _MOST_TASKS if found is None else int(found[1]) or 2**31 - 1

    def problem(self, answer: Answer) -> str | None:
        said = f"{answer.out}\n{answer.err}".splitlines()
        problems = [line for line in said if line.strip() and not self.gone.search(line)]
        return "\n".join(problems) if answer.code != 0 and problems else None

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        rows = yield from self._qstat_rows(keys)
        live = [row for row in rows if row.state.state != "ended"]
        if not keys.not_in(keys.states(live, first=1))[0]:
            return rows
        told = yield from self._qacct(keys)
        known = [*rows, *told, *live]
        if keys.not_in(keys.states(known, first=1))[0]:
            known = [*(yield from self._qstat_rows(keys, _WAITING)), *known]
        return known

    def _qstat_rows(self, keys: JobKeys, queues: Sequence[str] = _OF_QUEUES) -> Dialogue[list[Row]]:
        """What qstat tells of the jobs. Of a task its first row counts, so it is the last here."""
        told = yield from self._qstat(keys.users, queues)
        rows = [(row, found) for row in told if (found := keys.job(row.job_id, row.name, row.user))]
        unclear = {row.job_id for row, _ in rows if {"E", "h"}.intersection(row.state.word)}
        details = yield from self._details(sorted(unclear))
        found_rows: list[Row] = []
        for row, (_, job) in reversed(rows):
            of_job = details.get(row.job_id, _Details({}, "", []))
            row = row._replace(state=live_state(row.state.word, row.job_id, of_job.after))
            found_rows.append(row)
            own = positions(row.indices, job.n_tasks, first=1) if row.indices else [0]
            for index in sorted(of_job.errors.keys() & {place + 1 for place in own}):
                state = with_error(row.state, of_job.errors[index])
                found_rows.append(row._replace(state=state, indices=str(index)))
        return found_rows

    def _qstat(
        self, users: Iterable[str], queues: Sequence[str] = _OF_QUEUES
    ) -> Dialogue[list[Row]]:
        """What these users have in the queue, and what ended a moment ago, in this order.

        A row's state is qstat's own letters.
        """
        # -s and -q undo what a user's .sge_qstat may leave out; sge_qstat(5).
        chosen = ("-u", ",".join(sorted(users)), "-s", "psrz", *queues)
        answer = yield from asking("qstat", "-xml", *chosen, strict=False)
        if answer.code != 0 or "</job_info>" not in answer.out:
            said = one_line(answer.err or answer.out)
            raise SchedulerUnavailable(self.name, said or "qstat gave no list of jobs")
        # No parser of XML: of names such as `a<b` qstat makes what is none.
        rows: list[Row] = []
        for text in re.findall(r"<job_list\b.*?</job_list>", answer.out, re.DOTALL):
            job_id, name, letters, tasks, user = (_field(text, field) for field in _FIELDS)
            rows.append(Row(job_id, TaskState("queued", letters), name, user, indices=tasks))
        return rows

    def _details(self, job_ids: Sequence[str]) -> Dialogue[dict[str, _Details]]:
        """What is told of jobs one by one; of those that have just ended, nothing."""
        if not job_ids:
            return {}
        answer = yield from asking("qstat", "-j", ",".join(job_ids), strict=False)
        return {number: _read_details(text) for number, text in _blocks(answer.out, job_ids)}

    def _qacct(self, keys: JobKeys) -> Dialogue[list[Row]]:
        """What accounting knows of tasks that are not in the queue any more.

        Its file may be out of reach here, or late, so a missing record means nothing.
        """
        # All names of a submission differ only in the position at their end.
        families = {f"{name.rpartition('-')[0]}-*" for name in keys.by_name}
        rows: list[Row] = []
        for user, family in itertools.product(sorted(keys.users), sorted(families)):
            command = ("qacct", "-o", user, "-j", family)
            try:
                answer = yield from asking(*command, timeout=_PATIENCE, strict=False)
            except SchedulerUnavailable:
                return rows
            for record in _records(answer.out):
                # Of a task that was requeued, the last record is the last.
                index = record.get("taskid", "").replace("undefined", "")
                job_id, name = record.get("jobnumber", ""), record.get("jobname", "")
                rows.append(Row(job_id, ended_state(record), name, user, indices=index))
        return rows

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        names = {job.name for job in planned}
        ids: dict[str, str] = {}
        for queues in (_OF_QUEUES, _WAITING):
            if not names <= ids.keys():
                rows = yield from self._qstat([user], queues)
                ids |= {row.name: row.job_id for row in rows if row.job_id.isdecimal()}
        return ids

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        details = yield from self._details(_numbers(job_ids))
        told = {line for job in details.values() for line in job.obstacles}
        # Most sites have schedd_job_info off, sched_conf(5).
        return sorted(line for line in told if "is turned off" not in line)

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        if ids := _numbers(job_ids):
            yield from asking("qdel", *ids)


def _without_nodes(nodes: Sequence[str], script: str) -> str:
    # sge_types(5), "expression". Of several requests for one resource the last one counts.
    requests = ",".join(option_values(script, "#$", "-l")).split(",")
    own = [request for request in requests if re.match(r"(h|hostname)=.", request)][-1:]
    before = "".join(f"({request.partition('=')[2]})&" for request in own)
    names = "|".join(pattern for name in nodes for pattern in (name, f"{name}.*"))
    return with_directive(script, "#$", f"-l hostname={before}!({names})")


def _field(job: str, name: str) -> str:
    """A field of a job in qstat's XML; "" where it is not there."""
    found = re.search(rf"<{name}>(.*?)</{name}>", job, re.DOTALL)
    return html.unescape(found[1]).strip() if found else ""


def _numbers(job_ids: Iterable[str]) -> list[str]:
    """The ids that are such; a damaged file could give a command another option."""
    return [job_id for job_id in job_ids if re.fullmatch(r"[0-9]+", job_id)]


def _without_stamp(words: str) -> str:
    """An error reason without the time, user and process in front of it."""
    return re.sub(r"^[\d/]+ [\d:.]+ \[\d+:\d+\]:\s*(error: )?", "", words).strip()


def _blocks(output: str, job_ids: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What `qstat -j` tells of each job: its id, and what SGE itself adds to what was submitted.

    Variables and arguments are printed with their line breaks, so that they may look like anything,
    and the path of the script follows them.
    """
    ids = "|".join(map(re.escape, job_ids))
    begins: dict[str, int] = {}
    for head in re.finditer(rf"^=+\njob_number: +({ids})$", output, re.MULTILINE):
        # The first one is: what names a job in a variable is that of a later job.
        begins.setdefault(head[1], head.end())
    ends = [*begins.values(), len(output)][1:]
    for (number, place), end in zip(begins.items(), ends, strict=True):
        yield number, output[place:end].rpartition("\nscript_file:")[2]


def _read_details(text: str) -> _Details:
    errors = re.findall(r"^error reason\s+(\d+):\s+(.*)$", text, re.MULTILINE)
    after = re.search(r"^jid_predecessor_list:\s+(\S+)", text, re.MULTILINE)
    told = re.search(r"^scheduling info:((?:.*\n?(?!\S))*)", text, re.MULTILINE)
    return _Details(
        {int(task): _without_stamp(words) for task, words in errors},
        after[1] if after else "",
        [line.strip() for line in told[1].splitlines()] if told else [],
    )


def _records(output: str) -> Iterator[dict[str, str]]:
    """The records of `qacct -j`: lines of a name and a value each, below a line of `=`."""
    for block in re.split(r"^=+\s*$", output, flags=re.MULTILINE)[1:]:
        pairs = (line.partition(" ") for line in block.splitlines())
        yield {name: value.strip() for name, _, value in pairs}


# What SGE's words mean.


def is_queued(state: str) -> bool:
    """Whether letters of qstat's state are a waiting task's; sge_status(5).

    >>> is_queued("hqw"), is_queued("Rq"), is_queued("dRr"), is_queued("z")
    (True, True, False, False)
    """
    return "q" in state


def live_state(state: str, job_id: str, after: str = "") -> TaskState:
    """A row of qstat as a TaskState.

    Args:
        state: the letters of its state.
        job_id: the job's.
        after: ids of the jobs that it waits for, or "".
    """
    if "z" in state:
        return TaskState("ended")
    if not is_queued(state):
        return TaskState("running", state, _running_words(state))
    said: list[str] = []
    if "E" in state:
        said.append(f"in an error state, `qmod -cj {job_id}` lets it start again")
    elif "h" in state:
        said.append(f"waits for job {after}" if after else f"held, `qrls {job_id}` lets it start")
    if "R" in state:
        said.append("requeued")
    words = ", ".join(said)
    return TaskState("queued", state, f"{words} ({state})" if words else "")


def with_error(state: TaskState, error: str) -> TaskState:
    """The same, with what SGE says of a task's error ("" for none)."""
    return state._replace(reason=f"{state.reason}: {error}") if error else state


def _running_words(state: str) -> str:
    if "d" in state:
        return "being deleted"
    return "suspended" if {"s", "S", "T"}.intersection(state) else ""


def ended_state(record: Mapping[str, str]) -> TaskState:
    """The last record that qacct has of a task as a TaskState.

    Args:
        record: the fields of `qacct -j` by their names.
    """
    code, _, words = record.get("failed", "").partition(":")
    failed, status = _number(code), _number(record.get("exit_status", ""))
    signal = status - 128 if failed in _SIGNALLED and 128 < status <= 128 + 64 else 0
    if failed == _LIMIT:
        stopped, said = _limit(record), f"signal {signal}" if signal else ""
    elif failed == _EXITED_100:
        stopped, said = "", "exit code 100, which SGE takes for an error of the job"
    elif failed in _RERUN:
        stopped, said = "", "ended after it was requeued"
    elif failed and failed not in _SIGNALLED:
        stopped, said = "", words.strip()
    else:
        stopped, said = "", f"signal {signal}" if signal else f"exit code {status}" * bool(status)
    return TaskState("ended", "", said, signal, stopped)


def _limit(record: Mapping[str, str]) -> str:
    """Which limit ended a task: SGE has one code for h_rt, h_cpu and h_vmem."""
    asked = re.search(r"\bh_rt=([\d:]+)", record.get("category", ""))
    limit = clock_seconds(asked[1], lone="seconds") if asked else None
    elapsed = record.get("ru_wallclock", "").rstrip("s")
    if limit is not None and _number(elapsed) >= limit:
        return "time limit"
    return "a limit of time or memory (h_rt, h_cpu or h_vmem)"


def _number(text: str) -> int:
    """The number that a text begins with; 0 for none."""
    found = re.match(r"\s*(\d+)", text)
    return int(found[1]) if found else 0


DIALECT = Sge()
