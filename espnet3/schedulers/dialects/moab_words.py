"""What the rows of Moab's `showq --xml` mean.

From the manual's pages on job states and job holds, and from answers of real servers that users
have published.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.dialects.pbs_words import ended

_QUEUED = {
    "UserHold": "held, `mjobctl -u user {job_id}` lets it start",
    "SystemHold": "held by an administrator",
    "BatchHold": "held by Moab, as it cannot run; `checkjob {job_id}` says why",
    "Hold": "held, `checkjob {job_id}` says why",
    "Deferred": "Moab could not start it, and tries again later",
    "NotQueued": "the resource manager below Moab does not answer",
    "Migrated": "is handed to the resource manager below Moab",
}
# Of a job that is blocked but not held.
_BLOCKED = "blocked by a policy, or by a job that it waits for"
# Given back to the queue; it is listed there again.
_VACATED = "Vacated"


def task_state(queue: str, row: Mapping[str, str]) -> TaskState:
    """What Moab tells of a task, or of a job that is no array, as a TaskState.

    Args:
        queue: the list that it stands in: `active`, `eligible`, `blocked` or `completed`.
        row: its attributes by their names.
    """
    word = row.get("State", "")
    if queue == "completed":
        return _ended(row)
    if queue == "active":
        return TaskState("running", word, "" if word in ("Running", "Starting") else word.lower())
    said = _QUEUED.get(word, _BLOCKED if queue == "blocked" else "")
    return TaskState("queued", word, said.format(job_id=row.get("JobID", "")))


def array_state(queue: str, row: Mapping[str, str]) -> TaskState:
    """What an array's own row tells of those of its tasks that are not listed.

    How they ended is not in it: its completion code is no task's.

    Example:
        >>> array_state("completed", {"State": "Completed", "CompletionCode": "1"})
        TaskState(state='ended', word='', reason='', signal=0, stopped='', begun=True)
    """
    state = task_state(queue, row)
    if state.state != "ended":
        return state
    return TaskState("ended", stopped="cancelled" if state.stopped == "cancelled" else "")


def is_vacated(row: Mapping[str, str]) -> bool:
    """Whether a job that has ended was preempted and given back to the queue."""
    return row.get("State") == _VACATED


def _ended(row: Mapping[str, str]) -> TaskState:
    # An exit status, or "CNCLD", or that with the status in parentheses.
    found = re.fullmatch(r"(CNCLD)?\(?(-?\d+)?\)?", row.get("CompletionCode", ""))
    cancelled = row.get("State") == "Removed" or bool(found and found[1])
    used, limit = _seconds(row.get("AWDuration")), _seconds(row.get("ReqAWDuration"))
    state = ended(
        (found and found[2]) or "",
        torque=True,  # the statuses below zero; Slurm, the other one, has none
        over=0 < limit <= used,
        cancelled=cancelled,
        scheduler="Moab",
    )
    preempted = not state.stopped and is_vacated(row)
    return state._replace(stopped="preempted") if preempted else state


def _seconds(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
