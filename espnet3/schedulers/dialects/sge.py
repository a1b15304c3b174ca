"""SGE's dialect, checked against Son of Grid Engine 8.1.9. Facts are from its manual pages."""

from __future__ import annotations

import html
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialects.sge_words import ended_state, live_state, with_error
from espnet3.schedulers.job_keys import JobKeys, positions
from espnet3.schedulers.scripts import log_line
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob
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
# What qdel says of a job that is being deleted, or gone.
_GONE = re.compile(r"does not exist|is already in deletion|has (registered|deleted) ")
# -q undoes what a user's .sge_qstat may leave out, but hides jobs that no queue could run now, such
# as those that wait for free memory; so what it does not list is asked for without it.
_OF_QUEUES, _WAITING = ("-q", "*"), ()
_FIELDS = ("JB_job_number", "JB_name", "state", "tasks", "JB_owner")


class _Row(NamedTuple):
    """A row of qstat: tasks of a job that share a state."""

    job_id: str
    name: str
    state: str
    tasks: str
    user: str


class _Details(NamedTuple):
    """What `qstat -j` tells of a job: error reasons by task, whom it waits for, and obstacles."""

    errors: dict[int, str]
    after: str
    obstacles: list[str]


class SgeScheduler(Scheduler):
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
    version_command = ("qstat", "-help")  # prints "SGE 8.1.9" first
    directive = "#$"
    settled: ClassVar[Mapping[str, str]] = {
        "job_name": "-N$",
        "log_directory": "-[oej]$",
        "array": "-tc?$",
        "stay": "-(sync|verify)$",
    }
    no_answer = re.compile(r"timed? ?out|unable to (send|contact)|commlib error|gdi request", re.I)

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("SGE_TASK_ID", "")
        return int(index) - self.first_index if index.isdecimal() else None  # or "undefined"

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        job = environ.get("JOB_ID")
        index = self.array_index(environ)
        return job if job is None or index is None else self.task_name(job, index)

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return environ.get("RESTARTED", "0") != "0"

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        # sge_types(5), "job_name"; blanks and other alphabets make qmaster hang up on qsub.
        plain = re.sub(r"[^A-Za-z0-9._+=-]", "_", prefix)[:100]
        name = super().unique_name(plain, run_id, number, position)
        return name if name[0].isalpha() else f"_{name}"

    def adapted(self, options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
        walltime = options.get("walltime")
        seconds = self.walltime_seconds(walltime)
        if seconds is None or not re.search(r"-|^\d+:\d+$", str(walltime)):
            return dict(options)
        # h_rt is h:m:s or seconds only; sge_types(5), "time_specifier".
        return {**options, "walltime": hours_minutes_seconds(seconds)}

    def task_name(self, job_id: str, index: int | None) -> str:
        return job_id if index is None else f"{job_id}.{index + self.first_index}"

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        file = job.log.replace("{index}", "$TASK_ID" if array else str(self.first_index))
        log = f"{log_directory}/{file}" if _is_plain(log_directory) else "/dev/null"
        # With -notify SIGUSR2 comes before SIGKILL, at qdel and at h_rt. The first two undo what a
        # file of defaults may say, sge_request(5).
        words = ["-b", "n", "-sync", "n", "-terse", "-notify"]
        words += ["-N", job.name, "-j", "y", "-o", log]
        if array:
            words += ["-t", f"1-{job.n_tasks}"]
            words += [] if job.throttle is None else ["-tc", str(job.throttle)]
        return words

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        if _is_plain(log_directory):
            return []
        index = '"$SGE_TASK_ID"' if array else str(self.first_index)
        return [log_line(job, log_directory, index)]

    def after_argument(self, job_id: str) -> list[str]:
        return ["-hold_jid", job_id]  # any end but exit code 100, which workers do not have

    def job_ids(self, output: str) -> list[str]:
        # The synchronous mode goes without -terse, which prints "12" or "12.1-5:1".
        told = re.findall(r'^Your job(?:-array)? (\d+)\S* \(".*', output, re.MULTILINE)
        lone = r"^\s*(\d+)(?:\.\d+-\d+:\d+)?\s*$"
        return told or re.findall(lone, output, re.MULTILINE)

    async def max_array_size(self) -> int:
        answer = await self._ask("qconf", "-sconf")
        if answer.code != 0:
            raise SchedulerUnavailable(self.name, answer.err or answer.out)
        found = re.search(r"^max_aj_tasks\s+(\d+)", answer.out, re.MULTILINE)
        # 0 is no limit but that of the index.
        return _MOST_TASKS if found is None else int(found[1]) or 2**31 - 1

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        if not keys.by_name:
            return {}
        states = await self._listed(keys)
        live = {task for task, state in states.items() if state.state != "ended"}
        over = keys.not_in(live)[0] | (states.keys() - live)
        if not over:
            return states
        told = await self._qacct(keys, over)
        missed = over - told.keys() - states.keys()
        again = await self._listed(keys, _WAITING) if missed else {}
        return states | told | {task: again[task] for task in missed & again.keys()}

    async def _listed(
        self, keys: JobKeys, queues: Sequence[str] = _OF_QUEUES
    ) -> dict[TaskKey, TaskState]:
        """What qstat tells of the tasks."""
        rows = [(row, _tasks(keys, row)) for row in await self._qstat(keys.users, queues)]
        rows = [(row, tasks) for row, tasks in rows if tasks]
        unclear = {row.job_id for row, _ in rows if {"E", "h"}.intersection(row.state)}
        details = await self._details(sorted(unclear))
        states: dict[TaskKey, TaskState] = {}
        for row, tasks in rows:
            told = details.get(row.job_id, _Details({}, "", []))
            state = live_state(row.state, row.job_id, told.after)
            for task, index in tasks:
                states.setdefault(task, with_error(state, told.errors.get(index, "")))
        return states

    async def _qstat(self, users: Iterable[str], queues: Sequence[str] = _OF_QUEUES) -> list[_Row]:
        """What these users have in the queue, and what ended a moment ago, in this order."""
        # -s and -q undo what a user's .sge_qstat may leave out; sge_qstat(5).
        chosen = ("-u", ",".join(sorted(users)), "-s", "psrz", *queues)
        answer = await self._ask("qstat", "-xml", *chosen)
        if answer.code != 0 or "</job_info>" not in answer.out:
            said = one_line(answer.err or answer.out)
            raise SchedulerUnavailable(self.name, said or "qstat gave no list of jobs")
        # No parser of XML: of names such as `a<b` qstat makes what is none.
        jobs = re.findall(r"<job_list\b.*?</job_list>", answer.out, re.DOTALL)
        return [_Row(*(_field(job, name) for name in _FIELDS)) for job in jobs]

    async def _details(self, job_ids: Sequence[str]) -> dict[str, _Details]:
        """What is told of jobs one by one; of those that have just ended, nothing."""
        if not job_ids:
            return {}
        answer = await self._ask("qstat", "-j", ",".join(job_ids))
        return {number: _read_details(text) for number, text in _blocks(answer.out, job_ids)}

    async def _qacct(self, keys: JobKeys, tasks: set[TaskKey]) -> dict[TaskKey, TaskState]:
        """What accounting knows of tasks that are not in the queue any more.

        Its file may be out of reach here, or late, so a missing record means nothing.
        """
        # All names of a submission differ only in the position at their end.
        families = {f"{name.rpartition('-')[0]}-*" for name in keys.by_name}
        states: dict[TaskKey, TaskState] = {}
        for user, family in itertools.product(sorted(keys.users), sorted(families)):
            try:
                answer = await self._ask("qacct", "-o", user, "-j", family, timeout=_PATIENCE)
            except SchedulerUnavailable:
                return states
            for record in _records(answer.out):
                # Of a task that was requeued, the last record is the last.
                index = record.get("taskid", "").replace("undefined", "")
                row = _Row(record.get("jobnumber", ""), record.get("jobname", ""), "", index, user)
                for task, _ in _tasks(keys, row):
                    if task in tasks:
                        states[task] = ended_state(record)
        return states

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = {job.name for job in planned}
        ids: dict[str, str] = {}
        for queues in (_OF_QUEUES, _WAITING):
            if not names <= ids.keys():
                rows = await self._qstat([user], queues)
                ids |= {row.name: row.job_id for row in rows if row.job_id.isdecimal()}
        return [AcceptedJob(name=n, job_id=i) for n, i in sorted(ids.items()) if n in names]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        ids = _numbers(job.job_id for job in jobs)
        if not ids:
            return
        answer = await self._ask("qdel", *ids)
        said = f"{answer.out}\n{answer.err}".splitlines()
        problems = [line for line in said if line.strip() and not _GONE.search(line)]
        if answer.code != 0 and problems:
            raise SchedulerUnavailable(self.name, "\n".join(problems))

    async def reasons(self, job_ids: Sequence[str]) -> str:
        details = await self._details(_numbers(job_ids))
        told = {line for job in details.values() for line in job.obstacles}
        # Most sites have schedd_job_info off, sched_conf(5).
        return ", ".join(sorted(line for line in told if "is turned off" not in line))

    def scrubbed(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Such names are a job's only where there is a job; QUEUE may be anybody's elsewhere.
        left = _OF_JOBS if "SGE_TASK_ID" in environ else frozenset()
        return {n: value for n, value in super().scrubbed(environ).items() if n not in left}

    async def _ask(self, *command: str, timeout: float = 60.0) -> Answer:
        environ = {**self.scrubbed(os.environ), "LC_ALL": "C"}  # its messages are translated
        return await ask(self.name, command, environ=environ, timeout=timeout)


def _is_plain(log_directory: str) -> bool:
    """Whether -o takes it literally: host:path, lists and pseudo variables are special to it."""
    return not re.search(r"[:,$]", log_directory)


def _field(job: str, name: str) -> str:
    """A field of a job in qstat's XML; "" where it is not there."""
    found = re.search(rf"<{name}>(.*?)</{name}>", job, re.DOTALL)
    return html.unescape(found[1]).strip() if found else ""


def _tasks(keys: JobKeys, row: _Row) -> list[tuple[TaskKey, int]]:
    """The tasks of a row, with SGE's index of each; 1 outside an array."""
    found = keys.job(row.job_id, row.name, row.user)
    if found is None:
        return []
    submission, job = found
    where = positions(row.tasks, job.n_tasks, first=1) if row.tasks else [0]
    return [((submission, job.first_task + position), position + 1) for position in where]


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


SCHEDULER = SgeScheduler
