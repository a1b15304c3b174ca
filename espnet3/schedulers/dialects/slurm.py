"""Slurm's dialect, checked against 22.05. Facts are from its manual pages unless said otherwise."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import repeat
from typing import ClassVar

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask
from espnet3.schedulers.dialects.slurm_words import Ending, task_state
from espnet3.schedulers.job_keys import JobKeys, positions, tasks_at
from espnet3.schedulers.scripts import log_line
from espnet3.schedulers.task_states import TaskStates
from espnet3.schedulers.walltimes import clock_seconds
from espnet3.specs.models import AcceptedJob, PlannedJob

# Array id, indices in it ("N/A" outside one), state, reason, user, time of submission, name; the
# name may hold anything.
_FORMAT = "%F|%K|%T|%r|%u|%V|%j"
_ALL = "0-4294967295"  # every index
# What a user may set for these commands, and would hide or keep jobs (SQUEUE_PARTITION, say).
_DEFAULTS = ("SQUEUE_", "SCANCEL_", "SACCT_", "SCONTROL_")
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


class SlurmScheduler(Scheduler):
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
    version_command = ("sbatch", "--version")
    directive = "#SBATCH"
    settled: ClassVar[Mapping[str, str]] = {
        "job_name": r"-J|--job-name\b",
        "log_directory": r"-[oe]|--(output|error|open-mode)\b",
        "array": r"-a|--array\b|hetjob\b|packjob\b",
        "stay": r"-W|--(wait|test-only|wrap)(=|$)",
    }
    no_answer = re.compile(
        r"timed out|No response|Zero Bytes|connect failure|not responding", re.IGNORECASE
    )

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get("SLURM_ARRAY_TASK_ID")
        return None if index is None else int(index)

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        # The last task of an array to start has SLURM_JOB_ID equal to the array's own id.
        array = environ.get("SLURM_ARRAY_JOB_ID")
        if array is not None:
            return f"{array}_{environ.get('SLURM_ARRAY_TASK_ID', '?')}"
        return environ.get("SLURM_JOB_ID")

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return environ.get("SLURM_RESTART_COUNT", "0") != "0"

    def walltime_seconds(self, walltime: object) -> float | None:
        return clock_seconds(walltime, lone="minutes")  # sbatch(1), --time

    def after_argument(self, job_id: str) -> list[str]:
        # afterok on a job that failed would wait for ever.
        return [f"--dependency=afterany:{_split(job_id)[0]}"]

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

    def task_name(self, job_id: str, index: int | None) -> str:
        number, _, cluster = job_id.partition(";")
        name = number if index is None else f"{number}_{index}"
        return f"{name} on cluster {cluster}" if cluster else name

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        file = job.log.replace("{index}", "%a" if array else "0")
        # A backslash anywhere, in the folder of --chdir too, turns all % patterns off; see
        # log_redirection.
        plain = "\\" not in log_directory
        log = f"{log_directory.replace('%', '%%')}/{file}" if plain else "/dev/null"
        words = ["--parsable", f"--job-name={job.name}", "--open-mode=append", f"--output={log}"]
        if array:
            throttle = "" if job.throttle is None else f"%{job.throttle}"
            words.append(f"--array=0-{job.n_tasks - 1}{throttle}")
        return words

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        if "\\" not in log_directory:
            return []
        return [log_line(job, log_directory, '"${SLURM_ARRAY_TASK_ID:-0}"')]

    async def max_array_size(self) -> int:
        # That of the cluster that sbatch would submit to.
        names = (os.environ.get(name) for name in ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"))
        cluster = next(filter(None, names), "")
        answer = await self._ask("scontrol", *_on(cluster), "show", "config")
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer.out, re.MULTILINE)
        if answer.code != 0 or found is None:
            raise SchedulerUnavailable(self.name, answer.err or "no MaxArraySize in its config")
        # MaxArraySize caps the index: the largest one allowed is MaxArraySize - 1.
        return int(found[1])

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> TaskStates:
        keys, states = JobKeys(submissions, wanted), TaskStates()
        if not keys.by_name:
            return states
        for cluster, ids in {"": [], **_by_cluster(keys.by_id)}.items():
            states.merge(await self._squeue(keys, cluster, ids))
        forgotten, jobs = keys.not_in(states)
        if forgotten:
            for cluster, ids in _by_cluster(jobs).items():
                states.merge(await self._sacct(keys, cluster, ids, forgotten))
        return states

    async def _squeue(self, keys: JobKeys, cluster: str, ids: Sequence[str]) -> TaskStates:
        """What the queue of one cluster ("" is this host's own) knows."""
        states = TaskStates()
        # Without recorded ids only the unique names can tell, and squeue cannot search for names
        # that hold commas.
        by_user = keys.unrecorded and not cluster
        if not by_user and not ids:
            return states
        chosen = f"--user={','.join(sorted(keys.users))}" if by_user else f"--jobs={','.join(ids)}"
        # Without --array, what waits of an array is one row.
        command = ("squeue", *_on(cluster), "--noheader", "--states=all", chosen)
        answer = await self._ask(*command, f"--format={_FORMAT}")
        if answer.code != 0:
            # Asked only for jobs that it has forgotten (MinJobAge after their end), it fails.
            if "Invalid job id specified" in answer.err:
                return states
            raise SchedulerUnavailable(self.name, answer.err or answer.out)
        rows = [line.split("|", 6) for line in answer.out.splitlines()]
        rows = [row for row in rows if len(row) == 7]  # others are a site's banner
        endings: dict[tuple[str, str], Ending] = {}
        if any(row[2] == "FAILED" for row in rows):
            endings = await self._endings(command)
        # Where a site's wrapper keeps SLURM_BITSTR_LEN from squeue, a list of what waits may be
        # cut. Any task may be meant then, unless another row speaks of it.
        rows.sort(key=lambda row: "..." not in row[1])
        for array, index, word, reason, user, submitted, job_name in rows:
            indices = _ALL if "..." in index else index
            job = keys.job(_whole(array, cluster), job_name, user, _seconds(submitted))
            found = _tasks(job, indices)
            if found is not None:
                state = task_state(word, reason, endings.get((array, index)))
                states.fill(*found, state)
        return states

    async def _endings(self, command: Sequence[str]) -> dict[tuple[str, str], Ending]:
        """Array id and index -> how the batch script ended; only this form of squeue tells it."""
        fields = "--Format=ArrayJobID:20,ArrayTaskID:20,exit_code:20"
        answer = await self._ask(*command, fields)
        rows = [line.split() for line in answer.out.splitlines()] if answer.code == 0 else []
        found = {(r[0], r[1]): Ending.of_wait_status(r[2]) for r in rows if len(r) == 3}
        return {at: ending for at, ending in found.items() if ending is not None}

    async def _sacct(
        self, keys: JobKeys, cluster: str, ids: Sequence[str], forgotten: set[TaskKey]
    ) -> dict[TaskKey, TaskState]:
        """What accounting knows of tasks that squeue has forgotten.

        It may be absent or late, so a missing row means nothing; nor does a row of a live job.
        """
        # Its default window starts at midnight; it takes the login node's local time.
        since = f"{keys.created.astimezone():%Y-%m-%dT%H:%M:%S}" if keys.created else ""
        try:
            answer = await self._ask(
                "sacct", *_on(cluster), "--noheader", "--parsable2",
                "--format=JobID,State,ExitCode", f"--jobs={','.join(ids)}",
                f"--starttime={since}",
            )  # fmt: skip
        except SchedulerUnavailable:
            return {}
        states: dict[TaskKey, TaskState] = {}
        never_begun: dict[TaskKey, TaskState] = {}
        for line in answer.out.splitlines() if answer.code == 0 else ():
            job, word, code = [*line.split("|"), "", ""][:3]
            # Tasks that were cancelled before they began share a row: 12_[1,4-9%2].
            found = re.match(r"(\d+)(?:_(\d+|\[[^]]*\]))?(\.batch)?$", job)
            # Out of memory shows on the batch step's row only, which follows the job's own.
            if found is None or (found[3] and not word.startswith("OUT_OF_ME")):
                continue
            own = _tasks(keys.job(_whole(found[1], cluster)), found[2] or "")
            if own is None:
                continue
            state = task_state(word, "", Ending.of_sacct(code))
            rows = never_begun if "[" in job else states
            of_row = forgotten.intersection(zip(repeat(own[0]), own[1]))
            rows.update(dict.fromkeys(of_row, state))
        told = never_begun | states
        return {key: state for key, state in told.items() if state.state == "ended"}

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = {job.name for job in planned}
        asked = ("--states=all", f"--user={user}", "--format=%F|%j")
        answer = await self._ask("squeue", "--noheader", *asked)
        if answer.code != 0:
            raise SchedulerUnavailable(self.name, answer.err or answer.out)
        found = _ids_by_name(answer.out)
        if not names <= found.keys():
            # Options such as --clusters send jobs elsewhere. Most sites have no other clusters, and
            # say so by an error.
            with contextlib.suppress(SchedulerUnavailable):
                elsewhere = await self._ask("squeue", "--clusters=all", *asked)
                found = _ids_by_name(elsewhere.out) | found
        return [AcceptedJob(name=n, job_id=i) for n, i in sorted(found.items()) if n in names]

    async def reasons(self, job_ids: Sequence[str]) -> str:
        answer = await self._ask(
            "squeue", "--noheader", "--format=%T %r", f"--jobs={','.join(job_ids)}"
        )
        return ", ".join(sorted(set(answer.out.splitlines()))) if answer.code == 0 else ""

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        for cluster, ids in _by_cluster(job.job_id for job in jobs).items():
            answer = await self._ask("scancel", *_on(cluster), *ids)
            if answer.code != 0 and "Invalid job id" not in answer.err:
                raise SchedulerUnavailable(self.name, answer.err or answer.out)

    async def _ask(self, *command: str) -> Answer:
        environ = self.scrubbed(os.environ)
        # Without the cluster that the user would choose now: ids hold that of their jobs.
        ours = (*_DEFAULTS, "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
        kept = {name: value for name, value in environ.items() if not name.startswith(ours)}
        kept["SLURM_BITSTR_LEN"] = "0"  # or sacct cuts the list of an array's tasks
        return await ask(self.name, command, environ=kept)


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


def _whole(number: str, cluster: str) -> str:
    """An id as sbatch told it."""
    return f"{number};{cluster}" if cluster else number


def _seconds(told: str) -> float | None:
    """A local time as squeue tells it, in seconds since 1970."""
    try:
        return datetime.fromisoformat(told).timestamp()
    except ValueError:
        return None


def _tasks(found: tuple[int, PlannedJob] | None, indices: str) -> tuple[int, Sequence[int]] | None:
    """Submission and tasks of a job's row; `indices` is `7`, `[1,4-9:2%3]`, or "" and "N/A"."""
    if found is None:
        return None
    submission, job = found
    if indices in ("", "N/A"):
        return submission, [job.first_task]
    ranges = indices.strip("[]").partition("%")[0]
    return submission, tasks_at(job, positions(ranges, job.n_tasks))


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


SCHEDULER = SlurmScheduler
