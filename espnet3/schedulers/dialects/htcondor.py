"""HTCondor's dialect, for versions from 9 on.

Checked against the manual pages of 10.0 and 23.0, against the parser that HTCondor's own bindings
have, and on a stand-in that keeps to the manual; no server could be had.

An array is a cluster: one `queue N`, whose jobs have the numbers 0 to N - 1 behind the cluster's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from espnet3.errors import ConfigError, SchedulerUnavailable
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.commands import Answer, ask, require_done
from espnet3.schedulers.dialects.htcondor_description import Description, literal
from espnet3.schedulers.dialects.htcondor_words import queued_words, task_state, waiting_words
from espnet3.schedulers.job_keys import JobKeys
from espnet3.schedulers.scripts import handfuls
from espnet3.specs.models import AcceptedJob, PlannedJob
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

Ad = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_.-]+")  # also of a user; no other reaches an expression
_ID = re.compile(r"[0-9]+")
_ATTRIBUTE = "EspnetJob"  # of a job's ad: its unique name
_VARIABLE = "ESPNET3_HTCONDOR_JOB"  # no variable of HTCondor's own tells a job its number
_MOST_TASKS = 20000  # MAX_JOBS_PER_SUBMISSION, where the configuration does not have it
_LOOK_BACK = 50000  # jobs of the history among which one is searched for by its name
_HISTORY_PATIENCE = 30.0  # seconds; it is for the words of a cause only
_ASKED = (
    "ClusterId", "ProcId", "Owner", _ATTRIBUTE, "JobStatus", "HoldReason", "HoldReasonCode",
    "RemoveReason", "ExitCode", "ExitBySignal", "ExitSignal", "LastRejMatchReason",
)  # fmt: skip
_ASKED_OF_FACTORIES = (
    "ClusterId", "Owner", _ATTRIBUTE, "JobMaterializeNextProcId", "JobMaterializePaused",
    "JobMaterializePauseReason",
)  # fmt: skip
# What condor_rm says of jobs that have left the queue.
_GONE = re.compile(r"couldn't find/remove all jobs|job [\d.]+ (not found|already)", re.IGNORECASE)


class HtcondorScheduler(Scheduler):
    """HTCondor through condor_submit, condor_q, condor_history and condor_rm."""

    name = "htcondor"
    within = ("_CONDOR_JOB_AD", "_CONDOR_SCRATCH_DIR", _VARIABLE)
    # What a job leaves; other variables with the prefix _CONDOR_ are a user's own configuration.
    inherited = (
        "_CONDOR_ANCESTOR_", "_CONDOR_BIN", "_CONDOR_CHIRP_CONFIG", "_CONDOR_CREDS",
        "_CONDOR_EXECUTE", "_CONDOR_JOB_AD", "_CONDOR_JOB_IWD", "_CONDOR_JOB_PIDS",
        "_CONDOR_MACHINE_AD", "_CONDOR_SCRATCH_DIR", "_CONDOR_SLOT", "_CONDOR_WRAPPER_ERROR_FILE",
        "_CHIRP_DELAYED_UPDATE_PREFIX", "BATCH_SYSTEM", _VARIABLE,
    )  # fmt: skip
    can_wait = False  # jobs that wait for others are DAGMan's, which is a program of its own
    own_options = frozenset({"walltime"})
    # htcondor.py of dask-jobqueue 0.9.0, job_header_dict
    directives = frozenset({
        "MY.DaskWorkerName", "batch_name", "RequestCpus", "RequestMemory", "RequestDisk",
        "MY.JobId", "MY.DaskWorkerCores", "MY.DaskWorkerMemory", "MY.DaskWorkerDisk",
    })  # fmt: skip
    prologue_in_command = True
    no_answer = re.compile(
        r"timed? ?out|failed to connect|can't find address|failed to commit|communication error",
        re.IGNORECASE,
    )
    version_command = ("condor_version",)

    def __init__(self) -> None:
        self._limit: int | None = None

    def array_index(self, environ: Mapping[str, str]) -> int | None:
        index = environ.get(_VARIABLE, "").partition(".")[2]
        return int(index) if index.isdecimal() else None

    def job_id(self, environ: Mapping[str, str]) -> str | None:
        return environ.get(_VARIABLE)

    def was_requeued(self, environ: Mapping[str, str]) -> bool:
        return _VARIABLE in environ  # any may be evicted and run again, and no variable tells it

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", prefix)[:100]
        return super().unique_name(clean, run_id, number, position)

    def settle(self, options: Mapping[str, JsonValue]) -> None:
        if options.get("disk") is None:
            raise ConfigError(
                "parallel.options.disk",
                "is missing; dask-jobqueue needs it for HTCondor, for example `disk: 1GB`",
            )
        extra = options.get("submit_command_extra")
        for word in extra if isinstance(extra, list) else []:
            # Later questions would be put to another queue.
            if re.match(r"-(n(a|am|ame)?|po(o|ol)?|r(e\w*)?|addr)$", str(word)):
                raise ConfigError(
                    "parallel.options.submit_command_extra",
                    f"has {word}, of which condor_q and condor_rm would not know; set "
                    "_CONDOR_SCHEDD_HOST (and _CONDOR_COLLECTOR_HOST) in the environment instead",
                )
        walltime = options.get("walltime")
        seconds = self.walltime_seconds(walltime)
        if walltime is not None and seconds is None:
            raise ConfigError(
                "parallel.options.walltime",
                f"is {one_line(repr(walltime), 40)}; give hours, minutes and seconds such as "
                '"02:00:00", or seconds',
            )
        self._limit = None if seconds is None else int(seconds)

    def submit_arguments(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        return ["-terse", "-append", f'MY.{_ATTRIBUTE} = "{job.name}"']

    def log_redirection(self, job: PlannedJob, log_directory: str, *, array: bool) -> list[str]:
        # HTCondor itself would empty the log when it starts a job again, and bring it back at the
        # end only where it transfers files.
        before, _, after = job.log.partition("{index}")
        return [
            f"export {_VARIABLE}=$(ClusterId).$(ProcId)"
            ' PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"',
            f"exec >>{literal(f'{log_directory}/{before}')}$(ProcId){literal(after)} 2>&1",
        ]

    def amended(
        self, script: str, job: PlannedJob, log_directory: str, *, array: bool, after: str | None
    ) -> str:
        description = Description(script)
        description.set_default("batch_name", job.name, instead_of="espnet3")
        description.set_default("transfer_executable", "False")  # the node has a shell of its own
        if self._limit is not None:
            over = f"JobStatus == 2 && time() - JobCurrentStartDate > {self._limit}"
            own = description.value("periodic_remove")
            description.set("periodic_remove", f"({own}) || ({over})" if own else over)
        if job.throttle is not None:
            description.set("max_materialize", str(job.throttle))
        return description.text(job.n_tasks)

    def job_ids(self, output: str) -> list[str]:
        terse = re.findall(r"^\s*(\d+)\.\d+ - \1\.\d+\s*$", output, re.MULTILINE)
        long = re.findall(r"\d+ job\(s\) submitted to cluster (\d+)", output)
        return [*terse, *long]

    def task_name(self, job_id: str, index: int | None) -> str:
        return f"{job_id}.{index or 0}"

    async def max_array_size(self) -> int:
        answer = await self._ask("condor_config_val", "MAX_JOBS_PER_SUBMISSION")
        if answer.code != 0 and "not defined" not in f"{answer.out}{answer.err}".lower():
            raise SchedulerUnavailable(self.name, answer.err or answer.out or "condor_config_val")
        size = answer.out.strip()
        return int(size) if answer.code == 0 and size.isdecimal() and int(size) else _MOST_TASKS

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        keys = JobKeys(submissions, wanted)
        states: dict[TaskKey, TaskState] = {}
        # First those that are no jobs yet, since they may become some between the questions.
        throttled = {n for n, (_, job) in keys.by_name.items() if job.throttle is not None}
        for ids, names in _parts(keys, throttled):
            command = ["condor_q", "-factory", "-allusers", *_restriction(ids, names)]
            for factory in await self._ads(command, _ASKED_OF_FACTORIES):
                found = _ours(keys, factory)
                if found is not None and isinstance(factory.get("JobMaterializeNextProcId"), int):
                    number, job = found
                    state = TaskState("queued", "", waiting_words(factory))
                    not_yet = range(factory["JobMaterializeNextProcId"], job.n_tasks)
                    states |= {(number, job.first_task + index): state for index in not_yet}
        for ids, names in _parts(keys, keys.by_name.keys()):
            command = ["condor_q", "-allusers", *_restriction(ids, names)]
            for ad in await self._ads(command, _ASKED):
                states |= _state(keys, ad, in_queue=True)
        return await self._of_history(keys, states) | states

    async def _of_history(
        self, keys: JobKeys, states: Mapping[TaskKey, TaskState]
    ) -> dict[TaskKey, TaskState]:
        """How wanted tasks ended that are not in the queue, as far as HTCondor still knows it."""
        found: dict[TaskKey, TaskState] = {}
        gone = {keys.by_id[job_id][1].name for job_id in keys.not_in(states)[1]}
        recorded = {job.name for _, job in keys.by_id.values()}
        gone |= {
            name
            for name, (number, job) in keys.by_name.items()
            if name not in recorded and (number, job.first_task) not in states
        }
        for ids, names in _parts(keys, gone):
            jobs = [keys.by_id[i][1] for i in ids] + [keys.by_name[n][1] for n in names]
            words = ["-limit", str(sum(job.n_tasks for job in jobs))]
            if keys.created is not None:  # clocks may differ
                since = int((keys.created - timedelta(hours=1)).timestamp())
                words += ["-since", f"EnteredCurrentStatus < {since}"]
            command = ["condor_history", *words, *_restriction(ids, names)]
            try:
                ads = await self._ads(command, _ASKED, timeout=_HISTORY_PATIENCE)
            except SchedulerUnavailable:
                break  # they have left the queue, which is known; how they ended is not
            for ad in ads:
                found |= _state(keys, ad, in_queue=False)
        return found

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        names = {job.name for job in planned}
        found: dict[str, str] = {}
        if not _NAME.fullmatch(user):
            return []
        for part in handfuls(sorted(names), _NAME):
            asked = [*_restriction([], part, user)]
            attributes = ("ClusterId", "Owner", _ATTRIBUTE)
            ads = await self._ads(["condor_q", "-allusers", *asked], attributes)
            if not set(part) <= {str(ad.get(_ATTRIBUTE)) for ad in ads}:
                ads += await self._ended(asked, attributes)
            for ad in ads:
                if ad.get(_ATTRIBUTE) in names and ad.get("Owner") == user:
                    found[ad[_ATTRIBUTE]] = str(ad["ClusterId"])
        return [AcceptedJob(name=name, job_id=found[name]) for name in sorted(found)]

    async def _ended(self, asked: Sequence[str], attributes: Sequence[str]) -> list[Ad]:
        """Jobs that have left the queue already; none where there is no history."""
        command = ["condor_history", "-scanlimit", str(_LOOK_BACK), *asked]
        try:
            return await self._ads(command, attributes, timeout=_HISTORY_PATIENCE)
        except SchedulerUnavailable:
            return []

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        for ids in handfuls((job.job_id for job in jobs), _ID):
            answer = await self._ask("condor_rm", *ids)
            require_done(self.name, answer, _GONE)

    async def reasons(self, job_ids: Sequence[str]) -> str:
        ids = [job_id for job_id in job_ids if _ID.fullmatch(job_id)]
        ads = await self._ads(["condor_q", "-allusers", *ids], _ASKED) if ids else []
        return ", ".join(sorted({queued_words(ad) for ad in ads} - {""}))

    async def _ads(
        self, command: Sequence[str], attributes: Sequence[str], *, timeout: float = 60.0
    ) -> list[Ad]:
        """What a question answers.

        Raises:
            SchedulerUnavailable: it fails, or what it prints is cut off.
        """
        words = [*command, "-json", "-attributes", ",".join(attributes)]
        answer = await self._ask(*words, timeout=timeout)
        if answer.code != 0:
            said = answer.err.strip() or answer.out.strip() or f"exit code {answer.code}"
            raise SchedulerUnavailable(self.name, said)
        if not answer.out.strip():
            return []  # some versions print nothing for no jobs
        try:
            ads = json.loads(answer.out)
        except ValueError:
            said = one_line(answer.out, 200)
            raise SchedulerUnavailable(self.name, f"{words[0]} printed no JSON: {said}") from None
        return [ad for ad in ads if isinstance(ad, dict)] if isinstance(ads, list) else []

    async def _ask(self, *command: str, timeout: float = 60.0) -> Answer:
        return await ask(self.name, command, environ=self.scrubbed(os.environ), timeout=timeout)


# Answers


def _state(keys: JobKeys, ad: Ad, *, in_queue: bool) -> dict[TaskKey, TaskState]:
    found, index = _ours(keys, ad), ad.get("ProcId")
    if found is None or not isinstance(index, int) or not 0 <= index < found[1].n_tasks:
        return {}
    number, job = found
    return {(number, job.first_task + index): task_state(ad, in_queue=in_queue)}


def _ours(keys: JobKeys, ad: Ad) -> tuple[int, PlannedJob] | None:
    """The submission and job that an ad belongs to."""
    if ad.get("Owner", "") not in keys.users:
        return None
    return keys.job(str(ad.get("ClusterId")), str(ad.get(_ATTRIBUTE, "")))


def _parts(keys: JobKeys, wanted: Iterable[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Ids of recorded jobs, and names of others, of those with these names; in handfuls."""
    names = set(wanted)
    ids = {job.name: job_id for job_id, (_, job) in keys.by_id.items() if _ID.fullmatch(job_id)}
    for part in handfuls((ids[name] for name in sorted(names & ids.keys())), _ID):
        yield part, []
    for part in handfuls(sorted(names - ids.keys()), _NAME):
        yield [], part


def _restriction(ids: Sequence[str], names: Sequence[str], user: str | None = None) -> list[str]:
    """The words by which condor_q and condor_history are told which jobs."""
    if not names:
        return list(ids)
    owner = f' && Owner == "{user}"' if user is not None else ""
    return ["-constraint", f'stringListMember({_ATTRIBUTE}, "{",".join(names)}"){owner}']


SCHEDULER = HtcondorScheduler
