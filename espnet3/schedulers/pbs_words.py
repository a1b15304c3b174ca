"""What the states, exit statuses and comments of PBS Pro and of Torque mean.

From pbs_job_attributes(7B), "Job Exit Status" in the PBS Professional guides and "Job Exit Status"
in Torque's administrator guide.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.walltimes import clock_seconds

_QUEUED = frozenset("QHWTM")
_RUNNING = frozenset("RESUB")
# Substate of a job that was deleted, PBS Pro.
_TERMINATED = "91"
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


def queued_words(job_id: str, fields: Mapping[str, str]) -> str:
    """Why a job waits, for a person; "" where PBS does not say.

    >>> queued_words("7.pbs", {"job_state": "H", "Hold_Types": "u"})
    'held, `qrls 7.pbs` lets it start'
    """
    word, depend = fields.get("job_state", ""), fields.get("depend", "")
    said: list[str] = []
    if word == "H" and depend.startswith("after"):
        ids = re.findall(r"(\d+(?:\[\d*\])?)[.@\w-]*", depend.partition(":")[2])
        said.append(f"waits for job {', '.join(dict.fromkeys(ids))}")
    elif word == "H" and "u" in fields.get("Hold_Types", ""):
        said.append(f"held, `qrls {job_id}` lets it start")
    elif word == "H":
        said.append("held by PBS or an administrator")
    elif word == "W":
        said.append("waits for its start time")
    elif word in ("T", "M"):
        said.append("is moved to another server or node")
    return ", ".join(filter(None, [*said, _comment(fields)]))


def _comment(fields: Mapping[str, str]) -> str:
    comment = fields.get("comment", "").strip()
    # What follows "Began" or "run" is when and where an earlier attempt started.
    if re.match(r"Job (Array Began|run|was sent)|Subjob run", comment):
        return ""
    return re.sub(r"^Not Running: ", "", comment)


def _ended(fields: Mapping[str, str], *, torque: bool) -> TaskState:
    used = clock_seconds(fields.get("resources_used.walltime"), lone="seconds")
    limit = clock_seconds(fields.get("Resource_List.walltime"), lone="seconds")
    return ended(
        fields.get("Exit_status", fields.get("exit_status", "")),
        torque=torque,
        over=used is not None and limit is not None and used >= limit,
        cancelled=fields.get("substate") == _TERMINATED,
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
