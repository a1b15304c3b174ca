"""Slurm's dialect, checked against 22.05. Facts are from its manual pages unless said otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.commands import Answer
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.dialect_helpers import log_line
from espnet3.schedulers.excluded_nodes import (
    host_names,
    option_values,
    short_names,
    with_directive,
)
from espnet3.schedulers.job_keys import EVERY, JobKeys, Row
from espnet3.schedulers.slurm_states import Ending, task_state
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import PlannedJob

# Array id, indices in it ("N/A" outside one), state, reason, user, time of submission, name; the
# name may hold anything.
_FORMAT = "%F|%K|%T|%r|%u|%V|%j"
# What a user may set for these commands, and would hide or keep jobs (SQUEUE_PARTITION, say).
_DEFAULTS = ("SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_")
_WIDE = 4200  # characters; more than a path can have
# Variables of sbatch that say what an option says.
_MEMORY = ("SBATCH_MEM_PER_NODE", "SBATCH_MEM_PER_CPU", "SBATCH_MEM_PER_GPU")
_SAID_BY = {
    "queue": ("SBATCH_PARTITION",),
    "account": ("SBATCH_ACCOUNT",),
    "project": ("SBATCH_ACCOUNT",),
    "walltime": ("SBATCH_TIMELIMIT",),
    "memory": _MEMORY,
    "job_mem": _MEMORY,
}


class Slurm(Dialect):
    """Slurm through sbatch, squeue, scancel, scontrol and, where the site has it, sacct."""

    name = "slurm"
    passes_environment = True
    within = ("SLURM_JOB_ID", "SLURM_JOBID")
    inherited = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_")
    # Which cluster, and who pays: a person's, in a job, too. Other SBATCH_* may be what the job
    # itself was submitted with, and would send all of the run's jobs where that one went.
    kept = frozenset({
        "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_TIME_FORMAT", "SLURM_CLUSTERS", "SLURM_JWT",
        "SBATCH_ACCOUNT", "SBATCH_CLUSTERS", "SBATCH_WCKEY",
    })  # fmt: skip
    # Arrays and logs that are not ours, and waiting for the job's end.
    unfit = frozenset({
        "SBATCH_ARRAY_INX", "SBATCH_ERROR", "SBATCH_OUTPUT", "SBATCH_OPEN_MODE", "SBATCH_WAIT",
    })  # fmt: skip
    can_exclude = True
    version_command = ("sbatch", "--version")
    directive = "#SBATCH"
    reserved: ClassVar[Mapping[str, str]] = {
        "job_name": r"-J|--job-name\b",
        "log_directory": r"-[oe]|--(output|error|open-mode)\b",
        "array": r"-a|--array\b|hetjob\b|packjob\b",
        "stay": r"-W|--(wait|test-only|wrap)(=|$)",
    }
    no_answer = re.compile(
        r"timed out|No response|Zero Bytes|connect failure|not responding", re.IGNORECASE
    )

    def task(self, environ: Mapping[str, str]) -> Task:
        index, array = environ.get("SLURM_ARRAY_TASK_ID"), environ.get("SLURM_ARRAY_JOB_ID")
        # The last task of an array to start has SLURM_JOB_ID equal to the array's own id.
        own = environ.get("SLURM_JOB_ID") if array is None else f"{array}_{index or '?'}"
        restarted = environ.get("SLURM_RESTART_COUNT", "0") != "0"
        return Task(None if index is None else int(index), own, restarted)

    def walltime_seconds(self, walltime: object) -> float | None:
        return clock_seconds(walltime, lone="minutes")  # sbatch(1), --time

    def request(self, request: JobRequest) -> JobParts:
        job, logs, array, after = request[:4]
        file = job.log.replace("{index}", "%a" if array else "0")
        # A backslash anywhere, in the folder of --chdir too, turns all % patterns off.
        plain = "\\" not in logs
        log = f"{logs.replace('%', '%%')}/{file}" if plain else "/dev/null"
        words = ["--parsable", f"--job-name={job.name}", "--open-mode=append", f"--output={log}"]
        if array:
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words.append(f"--array=0-{job.n_tasks - 1}{throttle}")
        if after:  # afterok on a job that failed would wait for ever
            numbers = ":".join(_split(job_id)[0] for job_id in after)
            words.append(f"--dependency=afterany:{numbers}")
        lines = [] if plain else [log_line(job, logs, '"${SLURM_ARRAY_TASK_ID:-0}"')]
        excluded = host_names(request.without_nodes)
        return JobParts(words, lines, partial(_without_nodes, excluded) if excluded else str)

    def node_names(
        self, hosts: Sequence[str], environ: Mapping[str, str]
    ) -> Dialogue[Sequence[str]]:
        # sbatch refuses a name that is not a node's, and a node's need not be its host's.
        wanted = short_names(hosts)
        if not wanted:
            return []
        cluster = _chosen_cluster(environ)
        asked = ("--noheader", "--Node", "--format=%N|%n")
        answer = yield from asking("sinfo", *_on(cluster), *asked)
        pairs = (line.strip().split("|") for line in answer.out.splitlines() if "|" in line)
        return host_names(node for node, host in pairs if {*short_names([node, host])} & {*wanted})

    def job_ids(self, output: str) -> list[str]:
        # --parsable prints "id" or, where somebody names clusters, "id;cluster" on its own line;
        # the synchronous mode goes without.
        told = re.findall(
            r"^Submitted batch job (\d+)(?: on cluster (\S+))?\s*$", output, re.MULTILINE
        )
        if told:
            return [f"{number};{cluster}" if cluster else number for number, cluster in told]
        lines = [re.fullmatch(r"\d+(;\S+)?", line.strip()) for line in output.splitlines()]
        return [found[0] for found in lines if found]

    def submit_environ(
        self, environ: Mapping[str, str], stated: Iterable[str] = ()
    ) -> dict[str, str]:
        # To sbatch a variable counts more than a line of the script, where options stand.
        given = super().submit_environ(environ, stated)
        overruled = {name for option in stated for name in _SAID_BY.get(option, ())}
        return {name: value for name, value in given.items() if name not in overruled}

    def query_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        # Without the cluster that the user would choose now: ids hold that of their jobs.
        ours = (*_DEFAULTS, "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
        kept = {n: value for n, value in self.scrubbed(environ).items() if not n.startswith(ours)}
        return {**kept, "SLURM_BITSTR_LEN": "0"}  # or sacct cuts the list of an array's tasks

    def problem(self, answer: Answer) -> str | None:
        # Asked only for jobs that it has forgotten (MinJobAge after their end), a command fails.
        fine = answer.code == 0 or "Invalid job id" in answer.err
        return None if fine else answer.err or answer.out

    def task_name(self, job_id: str, index: int | None) -> str:
        number, _, cluster = job_id.partition(";")
        name = number if index is None else f"{number}_{index}"
        return f"{name} on cluster {cluster}" if cluster else name

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        # That of the cluster that sbatch would submit to.
        on = _on(_chosen_cluster(environ))
        answer = yield from asking("scontrol", *on, "show", "config")
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.out, re.MULTILINE)
        if found is None:
            raise SchedulerUnavailable(self.name, answer.err or "no MaxArraySize in its config")
        # MaxArraySize caps the index: the largest one allowed is MaxArraySize - 1.
        return int(found[1])

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        rows: list[Row] = []
        for cluster, ids in {"": [], **_by_cluster(keys.by_id)}.items():
            rows += yield from self._squeue(keys, cluster, ids)
        forgotten, jobs = keys.not_in(keys.states(rows))
        ended: list[Row] = []
        for cluster, ids in _by_cluster(jobs if forgotten else ()).items():
            ended += yield from self._sacct(keys, cluster, ids)
        return [*ended, *rows]

    def _squeue(self, keys: JobKeys, cluster: str, ids: Sequence[str]) -> Dialogue[list[Row]]:
        """What the queue of one cluster ("" is this host's own) knows."""
        # Without recorded ids only the unique names can tell, and squeue cannot search for names
        # that hold commas.
        by_user = keys.unrecorded and not cluster
        if not by_user and not ids:
            return []
        chosen = f"--user={','.join(sorted(keys.users))}" if by_user else f"--jobs={','.join(ids)}"
        # Without --array, what waits of an array is one row.
        command = ("squeue", *_on(cluster), "--noheader", "--states=all", chosen)
        answer = yield from asking(*command, f"--format={_FORMAT}")
        told = [line.split("|", 6) for line in answer.out.splitlines() if answer.code == 0]
        told = [fields for fields in told if len(fields) == 7]  # others are a site's banner
        endings: dict[tuple[str, str], Ending] = {}
        if any(fields[2] == "FAILED" for fields in told):
            endings = yield from self._endings(command)
        # Where a site's wrapper keeps SLURM_BITSTR_LEN from squeue, a list of what waits may be
        # cut. Any task may be meant then, unless another row speaks of it.
        told.sort(key=lambda fields: "..." not in fields[1])
        return [
            Row(
                _whole(array, cluster), task_state(word, reason, endings.get((array, index))),
                name, user, _seconds(submitted), _indices(index),
            )
            for array, index, word, reason, user, submitted, name in told
        ]  # fmt: skip

    def _endings(self, command: Sequence[str]) -> Dialogue[dict[tuple[str, str], Ending]]:
        """Array id and index -> how the batch script ended; only this form of squeue tells it."""
        fields = "--Format=ArrayJobID:20,ArrayTaskID:20,exit_code:20"
        answer = yield from asking(*command, fields, strict=False)
        rows = [line.split() for line in answer.out.splitlines()] if answer.code == 0 else []
        found = {(r[0], r[1]): Ending.of_wait_status(r[2]) for r in rows if len(r) == 3}
        return {at: ending for at, ending in found.items() if ending is not None}

    def _sacct(self, keys: JobKeys, cluster: str, ids: Sequence[str]) -> Dialogue[list[Row]]:
        """What accounting knows of tasks that squeue has forgotten.

        It may be absent or late, so a missing row means nothing; nor does a row of a live job.
        """
        # Its default window starts at midnight; it takes the login node's local time.
        since = f"{keys.created.astimezone():%Y-%m-%dT%H:%M:%S}" if keys.created else ""
        try:
            answer = yield from asking(
                "sacct", *_on(cluster), "--noheader", "--parsable2",
                "--format=JobID,State,ExitCode", f"--jobs={','.join(ids)}",
                f"--starttime={since}", strict=False,
            )  # fmt: skip
        except SchedulerUnavailable:
            return []
        rows: list[Row] = []
        never_begun: list[Row] = []
        for line in answer.out.splitlines() if answer.code == 0 else ():
            job, word, code = [*line.split("|"), "", ""][:3]
            # Tasks that were cancelled before they began share a row: 12_[1,4-9%2].
            found = re.match(r"(\d+)(?:_(\d+|\[[^]]*\]))?(\.batch)?$", job)
            # Out of memory shows on the batch step's row only, which follows the job's own.
            if found is None or (found[3] and not word.startswith("OUT_OF_ME")):
                continue
            state = task_state(word, "", Ending.of_sacct(code))
            if state.state == "ended":
                row = Row(_whole(found[1], cluster), state, indices=_indices(found[2] or ""))
                (never_begun if "[" in job else rows).append(row)
        return [*never_begun, *rows]

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        asked = ("--states=all", f"--user={user}", "--format=%F|%j")
        answer = yield from asking("squeue", "--noheader", *asked)
        found = _ids_by_name(answer.out)
        if not {job.name for job in planned} <= found.keys():
            # Options such as --clusters send jobs elsewhere. Most sites have no other clusters, and
            # say so by an error.
            try:
                elsewhere = yield from asking("squeue", "--clusters=all", *asked, strict=False)
            except SchedulerUnavailable:
                return found
            found = _ids_by_name(elsewhere.out) | found
        return found

    def find_logging_to(self, folder: str, user: str) -> Dialogue[dict[str, str]]:
        answer = yield from asking(
            "squeue", "--noheader", f"--user={user}",
            f"--Format=ArrayJobID:20,Name:{_WIDE},STDOUT:{_WIDE}",
        )  # fmt: skip
        found = {}
        for line in answer.out.splitlines():
            # Columns of fixed width: neither a name nor a path is cut, or both would be guesses.
            number, name, log = line[:20].strip(), line[20 : 20 + _WIDE], line[20 + _WIDE :]
            place, _, file = log.rstrip().rpartition("/")
            if number.isdecimal() and file and place.replace("%%", "%") == folder:
                found[name.rstrip()] = number
        return found

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        asked = ("--noheader", "--format=%T %r", f"--jobs={','.join(job_ids)}")
        answer = yield from asking("squeue", *asked, strict=False)
        return sorted(set(answer.out.splitlines())) if answer.code == 0 else ()

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        for cluster, ids in _by_cluster(job_ids).items():
            yield from asking("scancel", *_on(cluster), *ids)


def _split(job_id: str) -> tuple[str, str]:
    """The job's number, and its cluster where that is not this host's own."""
    number, _, cluster = job_id.partition(";")
    return number, cluster


def _by_cluster(job_ids: Iterable[str]) -> dict[str, list[str]]:
    """Cluster ("" is this host's own) -> numbers of its jobs."""
    found: dict[str, list[str]] = {}
    for number, cluster in map(_split, job_ids):
        if number.isdecimal():  # or a damaged file could give scancel another option
            found.setdefault(cluster, []).append(number)
    return found


def _on(cluster: str) -> list[str]:
    return [f"--clusters={cluster}"] if cluster else []


def _chosen_cluster(environ: Mapping[str, str]) -> str:
    names = (environ.get(name) for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"))
    return next(filter(None, names), "")


def _without_nodes(nodes: Sequence[str], script: str) -> str:
    # Of several the last one counts, and one on the command line more than any.
    own = [value for value in option_values(script, "#SBATCH", "-x", "--exclude")[-1:] if value]
    if any("/" in value for value in own):
        return script  # the user's names stand in a file
    return with_directive(script, "#SBATCH", f"--exclude={','.join([*own, *nodes])}")


def _whole(number: str, cluster: str) -> str:
    """An id as sbatch told it."""
    return f"{number};{cluster}" if cluster else number


def _seconds(told: str) -> float | None:
    """A local time as squeue tells it, in seconds since 1970."""
    try:
        return datetime.fromisoformat(told).timestamp()
    except ValueError:
        return None


def _indices(told: str) -> str:
    """Those of a row, which are told as `7`, `[1,4-9:2%3]`, "" or "N/A"."""
    if "..." in told:
        return EVERY
    return "" if told == "N/A" else told.strip("[]").partition("%")[0]


def _ids_by_name(output: str) -> dict[str, str]:
    """Job name -> id, of rows `id|name` below lines that name clusters, if there are any."""
    found, cluster = {}, ""
    for line in output.splitlines():
        number, _, name = line.partition("|")
        if line.startswith("CLUSTER: "):
            cluster = line.removeprefix("CLUSTER: ").strip()
        elif number.isdigit():
            found[name] = _whole(number, cluster)
    return found


DIALECT = Slurm()
