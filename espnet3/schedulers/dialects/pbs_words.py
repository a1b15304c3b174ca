"""What the states, exit statuses and comments of PBS Pro and of Torque mean.

From pbs_job_attributes(7B), "Job Exit Status" in the PBS Professional guides, "Job Exit Status" in
Torque's administrator guide, and what OpenPBS 23.06.06 said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.dialects.pbs_rows import parts
from espnet3.schedulers.walltimes import clock_seconds

_QUEUED = frozenset("QHWTM")
_RUNNING = frozenset("RESUB")
# Substates, PBS Pro: of a job that was deleted, and of an array that has begun. Without job history
# a task that has ended before its array shows the array's, and the array's exit status with it.
_TERMINATED, _BEGUN = "91", "70"
# Exit statuses by which the two say that they ended a job; -10 is another matter in PBS Pro.
_LIMITS = {
    False: {
        -24: "a limit of processors", -25: "a limit of processors", -26: "out of memory",
        -27: "out of memory", -28: "a limit of processor time", -29: "time limit",
    },
    True: {-10: "out of memory", -11: "time limit", -12: "a limit of processor time"},
}  # fmt: skip


def task_state(job_id: str, fields: Mapping[str, str], *, torque: bool) -> TaskState:
    """What `qstat -f` tells of a task, or of a job that is no array, as a TaskState.

    Args:
        job_id: its id.
        fields: its attributes by their names.
        torque: whether it is Torque that tells them.
    """
    word = fields.get("job_state", "")
    if word in _QUEUED:
        return TaskState("queued", word, queued_words(job_id, fields))
    if word in _RUNNING:
        return TaskState("running", word, _comment(fields) if word in "SU" else "")
    return _ended(fields, torque=torque)


def array_state(job_id: str, fields: Mapping[str, str]) -> TaskState:
    """What an array's own row tells of those of its tasks that are not listed, in PBS Pro.

    How they ended is not in it: its exit status is no task's.

    Example:
        >>> array_state("7[].pbs", {"job_state": "F", "substate": "93", "Exit_status": "1"})
        TaskState(state='ended', word='', reason='', signal=0, stopped='', begun=True)
    """
    if not is_over(fields):
        return task_state(job_id, fields, torque=False)
    stopped = "cancelled" if fields.get("substate") == _TERMINATED else ""
    return TaskState("ended", stopped=stopped)


def is_over(fields: Mapping[str, str]) -> bool:
    """Whether a job, an array or a task has ended."""
    return fields.get("job_state", "") not in _QUEUED | _RUNNING


def queued_words(job_id: str, fields: Mapping[str, str]) -> str:
    """Why a job waits, for a person; "" where PBS does not say.

    >>> queued_words("7.pbs", {"job_state": "H", "Hold_Types": "u"})
    'held, `qrls 7.pbs` lets it start'
    >>> queued_words("7[1].pbs", {"job_state": "Q", "Hold_Types": "u"})
    'held, `qrls 7[].pbs` lets it start'
    """
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


def ended(
    status: str, *, torque: bool, over: bool, cancelled: bool, scheduler: str = "PBS"
) -> TaskState:
    """What is known of a task that has ended.

    Args:
        status: its exit status; anything but a number where that is not known.
        torque: whether it is Torque's.
        over: whether it ran as long as it was allowed to.
        cancelled: whether somebody asked to stop it.
        scheduler: who tells it, for a person.
    """
    code = int(status) if re.fullmatch(r"-?\d{1,9}", status) else 0
    signal = _signal(code)
    stopped = _LIMITS[torque].get(code, "")
    if not stopped and code and over:
        stopped = "time limit"
    elif not stopped and cancelled:
        stopped = "cancelled"
    if code < 0:
        said = "" if stopped else f"{scheduler} could not run it, exit status {code}"
    else:
        said = f"signal {signal}" if signal else f"exit code {code}" * bool(code)
    return TaskState("ended", "", said, signal, stopped)


def _signal(code: int) -> int:
    """The signal in an exit status: 256 and more for the script itself, else as shells have it."""
    for base in (256, 128):
        if base < code <= base + 64:
            return code - base
    return 0
