"""HTCondor's dialect, for versions from 9 on.

Checked against the manual pages of 10.0 and 23.0, against the parser that HTCondor's own bindings
have, and on a stand-in that keeps to the manual; no server could be had.

An array is a cluster: one `queue N`, whose jobs have the numbers 0 to N - 1 behind the cluster's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from espnet3.errors import ConfigError, SchedulerUnavailable
from espnet3.schedulers.base import TaskState, plain_name
from espnet3.schedulers.condor_description import Description, literal
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.dialect_helpers import id_chunks
from espnet3.schedulers.excluded_nodes import short_names
from espnet3.schedulers.job_keys import JobKeys, Row
from espnet3.specs.models import PlannedJob
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
# From "Job ClassAd Attributes", JobStatus and HoldReasonCode above all.
_REMOVED, _COMPLETED, _HELD = 3, 4, 5
_QUEUED = {1: "Idle", _HELD: "Held"}
_RUNNING = {2: "Running", 6: "Transferring Output", 7: "Suspended"}
# Hold codes of jobs that have used up what they asked for; they would end in the same way again.
_USED_UP = {34: "out of memory", 46: "time limit", 47: "time limit"}
# What HTCondor itself gives as the reason for a removal.
_BY_EXPRESSION = re.compile(r"The (job attribute|system macro) \w+ expression ")
# Why a factory, which makes a throttled cluster's jobs one by one, makes none; 1 is by condor_hold.
_PAUSED_BY_HOLD = 1


class Htcondor(Dialect):
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
    can_exclude = True
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
    gone = re.compile(
        r"couldn't find/remove all jobs|job [\d.]+ (not found|already)", re.IGNORECASE
    )

    def task(self, environ: Mapping[str, str]) -> Task:
        own = environ.get(_VARIABLE)
        index = (own or "").partition(".")[2]
        # Any may be evicted and run again, and no variable tells it.
        return Task(int(index) if index.isdecimal() else None, own, own is not None)

    def unique_name(self, prefix: str, run_id: str, number: int, position: int) -> str:
        clean = re.sub(r"[^A-Za-z0-9_.-]", "_", prefix)[:100]
        return plain_name(clean, run_id, number, position)

    def check(self, options: Mapping[str, JsonValue]) -> None:
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

    def request(self, request: JobRequest) -> JobParts:
        job, logs, *_ = request
        # HTCondor itself would empty the log when it starts a job again, and bring it back at the
        # end only where it transfers files.
        before, _, after = job.log.partition("{index}")
        lines = [
            f"export {_VARIABLE}=$(ClusterId).$(ProcId)"
            ' PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"',
            f"exec >>{literal(f'{logs}/{before}')}$(ProcId){literal(after)} 2>&1",
        ]
        limit = self.walltime_seconds(request.options.get("walltime"))
        excluded = [name.replace(".", "[.]") for name in short_names(request.without_nodes)]

        def with_own_lines(script: str) -> str:
            description = Description(script)
            description.set_default("batch_name", job.name, instead_of="espnet3")
            # The node has a shell of its own.
            description.set_default("transfer_executable", "False")
            if limit is not None:
                over = f"JobStatus == 2 && time() - JobCurrentStartDate > {int(limit)}"
                own = description.value("periodic_remove")
                description.set("periodic_remove", f"({own}) || ({over})" if own else over)
            if excluded:
                others = f'!regexp("^({"|".join(excluded)})([.]|$)", TARGET.Machine, "i")'
                own = description.value("requirements")
                description.set("requirements", f"({own}) && {others}" if own else others)
            if job.throttle is not None:
                description.set("max_materialize", str(job.throttle))
            return description.text(job.n_tasks)

        arguments = ["-terse", "-append", f'MY.{_ATTRIBUTE} = "{job.name}"']
        return JobParts(arguments, lines, with_own_lines)

    def job_ids(self, output: str) -> list[str]:
        terse = re.findall(r"^\s*(\d+)\.\d+ - \1\.\d+\s*$", output, re.MULTILINE)
        long = re.findall(r"\d+ job\(s\) submitted to cluster (\d+)", output)
        return [*terse, *long]

    def task_name(self, job_id: str, index: int | None) -> str:
        return f"{job_id}.{index or 0}"

    def array_limit(self, environ: Mapping[str, str]) -> Dialogue[int]:
        answer = yield from asking("condor_config_val", "MAX_JOBS_PER_SUBMISSION", strict=False)
        if answer.code != 0 and "not defined" not in f"{answer.out}{answer.err}".lower():
            raise SchedulerUnavailable(self.name, answer.err or answer.out or "condor_config_val")
        size = answer.out.strip()
        return int(size) if answer.code == 0 and size.isdecimal() and int(size) else _MOST_TASKS

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        rows: list[Row] = []
        # First those that are no jobs yet, since they may become some between the questions.
        throttled = {n for n, (_, job) in keys.by_name.items() if job.throttle is not None}
        for ids, names in _parts(keys, throttled):
            command = ["condor_q", "-factory", "-allusers", *_restriction(ids, names)]
            for factory in (yield from self._ads(command, _ASKED_OF_FACTORIES)):
                first = factory.get("JobMaterializeNextProcId")
                if isinstance(first, int):
                    state = TaskState("queued", "", waiting_words(factory))
                    rows += _rows(keys, factory, state, f"{first}-4294967295")
        for ids, names in _parts(keys, keys.by_name.keys()):
            command = ["condor_q", "-allusers", *_restriction(ids, names)]
            for ad in (yield from self._ads(command, _ASKED)):
                rows += _rows(keys, ad, task_state(ad, in_queue=True), str(ad.get("ProcId")))
        return [*(yield from self._of_history(keys, rows)), *rows]

    def _of_history(self, keys: JobKeys, rows: Sequence[Row]) -> Dialogue[list[Row]]:
        """How wanted tasks ended that are not in the queue, as far as HTCondor still knows it."""
        states = keys.states(rows)
        gone = {keys.by_id[job_id][1].name for job_id in keys.not_in(states)[1]}
        for name in keys.unrecorded_names():
            number, job = keys.by_name[name]
            if (number, job.first_task) not in states:
                gone.add(name)
        found: list[Row] = []
        for ids, names in _parts(keys, gone):
            jobs = [keys.by_id[i][1] for i in ids] + [keys.by_name[n][1] for n in names]
            words = ["-limit", str(sum(job.n_tasks for job in jobs))]
            if keys.created is not None:  # clocks may differ
                since = int((keys.created - timedelta(hours=1)).timestamp())
                words += ["-since", f"EnteredCurrentStatus < {since}"]
            command = ["condor_history", *words, *_restriction(ids, names)]
            try:
                ads = yield from self._ads(command, _ASKED, timeout=_HISTORY_PATIENCE)
            except SchedulerUnavailable:
                break  # they have left the queue, which is known; how they ended is not
            for ad in ads:
                found += _rows(keys, ad, task_state(ad, in_queue=False), str(ad.get("ProcId")))
        return found

    def find(self, planned: Iterable[PlannedJob], user: str) -> Dialogue[dict[str, str]]:
        names = {job.name for job in planned}
        found: dict[str, str] = {}
        if not _NAME.fullmatch(user):
            return {}
        for part in id_chunks(sorted(names), _NAME):
            asked = [*_restriction([], part, user)]
            attributes = ("ClusterId", "Owner", _ATTRIBUTE)
            ads = yield from self._ads(["condor_q", "-allusers", *asked], attributes)
            if not set(part) <= {str(ad.get(_ATTRIBUTE)) for ad in ads}:
                ads += yield from self._ended(asked, attributes)
            for ad in ads:
                if ad.get(_ATTRIBUTE) in names and ad.get("Owner") == user:
                    found[ad[_ATTRIBUTE]] = str(ad["ClusterId"])
        return found

    def _ended(self, asked: Sequence[str], attributes: Sequence[str]) -> Dialogue[list[Ad]]:
        """Jobs that have left the queue already; none where there is no history."""
        command = ["condor_history", "-scanlimit", str(_LOOK_BACK), *asked]
        try:
            return (yield from self._ads(command, attributes, timeout=_HISTORY_PATIENCE))
        except SchedulerUnavailable:
            return []

    def reasons(self, job_ids: Sequence[str], user: str) -> Dialogue[Iterable[str]]:
        ids = [job_id for job_id in job_ids if _ID.fullmatch(job_id)]
        asked = ["condor_q", "-allusers", *ids]
        ads = (yield from self._ads(asked, _ASKED)) if ids else []
        return sorted({queued_words(ad) for ad in ads} - {""})

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        for ids in id_chunks(job_ids, _ID):
            yield from asking("condor_rm", *ids)

    def _ads(
        self, command: Sequence[str], attributes: Sequence[str], *, timeout: float = 60.0
    ) -> Dialogue[list[Ad]]:
        """What a question answers; where what is printed is cut off, nobody knows."""
        words = [*command, "-json", "-attributes", ",".join(attributes)]
        answer = yield from asking(*words, timeout=timeout, strict=False)
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


def _rows(keys: JobKeys, ad: Ad, state: TaskState, indices: str) -> list[Row]:
    """The row of an ad; none for a job of others, and where no task is told."""
    if ad.get("Owner", "") not in keys.users or not re.fullmatch(r"\d+(-\d+)?", indices):
        return []
    return [Row(str(ad.get("ClusterId")), state, str(ad.get(_ATTRIBUTE, "")), indices=indices)]


def _parts(keys: JobKeys, wanted: Iterable[str]) -> Iterator[tuple[list[str], list[str]]]:
    """Ids of recorded jobs, and names of others, of those with these names; in id_chunks."""
    names = set(wanted)
    ids = {job.name: job_id for job_id, (_, job) in keys.by_id.items() if _ID.fullmatch(job_id)}
    for part in id_chunks((ids[name] for name in sorted(names & ids.keys())), _ID):
        yield part, []
    for part in id_chunks(sorted(names - ids.keys()), _NAME):
        yield [], part


def _restriction(ids: Sequence[str], names: Sequence[str], user: str | None = None) -> list[str]:
    """The words by which condor_q and condor_history are told which jobs."""
    if not names:
        return list(ids)
    owner = f' && Owner == "{user}"' if user is not None else ""
    return ["-constraint", f'stringListMember({_ATTRIBUTE}, "{",".join(names)}"){owner}']


def task_state(ad: Mapping[str, Any], *, in_queue: bool) -> TaskState:
    """What a job's ad tells.

    Args:
        ad: its attributes by their names.
        in_queue: whether condor_q told them; else condor_history, of a job that left the queue.
    """
    status = ad.get("JobStatus")
    if in_queue and status in _RUNNING:
        word = _RUNNING[status]
        return TaskState("running", word, "is suspended" if status == 7 else "")
    if in_queue and status == _REMOVED:
        # Its processes may still be at it, and it is in the queue until they are gone.
        return TaskState("running", "Removed", "is being removed")
    if in_queue and status == _HELD and ad.get("HoldReasonCode") in _USED_UP:
        stopped = _USED_UP[ad["HoldReasonCode"]]
        return TaskState("ended", "Held", queued_words(ad), 0, stopped)
    if in_queue and status in _QUEUED:
        return TaskState("queued", _QUEUED[status], queued_words(ad))
    if in_queue and status != _COMPLETED:
        return TaskState("queued", f"JobStatus {status}")
    if status == _REMOVED:
        reason = _text(ad, "RemoveReason")
        return TaskState("ended", "", reason, 0, _why_removed(reason))
    return _completed(ad)


def queued_words(ad: Mapping[str, Any]) -> str:
    """Why a job waits, for a person; "" where HTCondor does not say.

    >>> queued_words({"ClusterId": 7, "ProcId": 2, "JobStatus": 5, "HoldReason": "via condor_hold"})
    'held: via condor_hold; `condor_release 7.2` lets it start'
    """
    if ad.get("JobStatus") == _HELD:
        name = f"{ad.get('ClusterId')}.{ad.get('ProcId')}"
        reason = _text(ad, "HoldReason") or "no reason given"
        return f"held: {reason}; `condor_release {name}` lets it start"
    return _text(ad, "LastRejMatchReason")


def waiting_words(factory: Mapping[str, Any]) -> str:
    """Why a task of a throttled cluster is not a job yet, for a person.

    Args:
        factory: the cluster's ad.
    """
    paused = factory.get("JobMaterializePaused")
    if paused == _PAUSED_BY_HOLD:
        return f"held, `condor_release {factory.get('ClusterId')}` lets it start"
    if paused and paused != 3:  # 3: all jobs are made
        return f"HTCondor makes no more of its jobs: {_text(factory, 'JobMaterializePauseReason')}"
    return "waits for another task of its cluster to end"


def _completed(ad: Mapping[str, Any]) -> TaskState:
    code, signal = _number(ad, "ExitCode"), _number(ad, "ExitSignal")
    if not ad.get("ExitBySignal"):
        signal = code - 128 if 128 < code <= 192 else 0  # as shells have it
    said = f"signal {signal}" if signal else f"exit code {code}" * bool(code)
    return TaskState("ended", "", said, signal)


def _why_removed(reason: str) -> str:
    """What stopped a job, in the words that all schedulers share.

    >>> _why_removed("via condor_rm (by user me), for want of Memory in its expression")
    'cancelled'
    """
    if not _BY_EXPRESSION.match(reason):
        return "cancelled"  # by somebody, whose own words may be anything
    memory = re.search(r"Memory|ResidentSetSize|ImageSize", reason)
    time = re.search(r"StartDate|CurrentStatus|WallClock", reason)
    if memory and time:  # the user's own `periodic_remove` and ours are one expression
        return "a limit of memory or time"
    return "out of memory" if memory else "time limit" if time else "cancelled"


def _number(ad: Mapping[str, Any], name: str) -> int:
    value = ad.get(name)
    return value if isinstance(value, int) else 0


def _text(ad: Mapping[str, Any], name: str) -> str:
    value = ad.get(name)
    return " ".join(value.split()) if isinstance(value, str) else ""


DIALECT = Htcondor()
