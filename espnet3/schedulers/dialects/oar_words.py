"""What OAR's words mean: its states, its messages, and the events that ended a job.

Checked with 2.5.9, whose source names the events; the manual has no list of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from espnet3.schedulers.base import TaskState

_QUEUED = {
    "Waiting": "",
    "Hold": "held, `oarresume` lets it start",
    "toAckReservation": "its reservation is being made",
    "toLaunch": "is being started",
    "Launching": "is being started",
}
_ENDED = {"Terminated", "Error"}
# The first that is among a job's events tells why it ended. FRAG_JOB_REQUEST is the last, since OAR
# asks for the ends of jobs by it too.
_STOPPED = {
    "WALLTIME": "time limit",
    "BESTEFFORT_KILL": "preempted",
    "PING_CHECKER_NODE_SUSPECTED": "node failed",
    "PING_CHECKER_NODE_SUSPECTED_END_JOB": "node failed",
    "CPUSET_ERROR": "node failed",
    "LAUNCHING_OAREXEC_TIMEOUT": "node failed",
    "EXTERMINATE_JOB": "node failed",
    "FRAG_JOB_REQUEST": "cancelled",
}
# Events that do not tell why a job has ended.
_PLAIN = re.compile(r"SWITCH_INTO_|SEND_KILL_JOB|SCHEDULER_PRIORITY_|CHECKPOINT|SIG")


def task_state(
    state: str,
    message: str = "",
    status: int | None = None,
    events: Sequence[tuple[str, str]] = (),
) -> TaskState:
    """A job's state as a TaskState.

    Args:
        state: OAR's.
        message: OAR's, for a person.
        status: how the command ended, as wait(2) says it; None where that is not known.
        events: types and descriptions.
    """
    if state in _QUEUED:
        return TaskState("queued", state, _QUEUED[state] or waiting_words(message))
    if state not in _ENDED:
        return TaskState("running", state)
    kinds = {kind for kind, _ in events}
    why = next((kind for kind in _STOPPED if kind in kinds), None)
    if why is not None:
        return TaskState("ended", state, stopped=_STOPPED[why])
    if status is not None:
        number = status & 0x7F
        words = f"signal {number}" if number else f"exit code {status >> 8 & 0xFF}"
        return TaskState("ended", state, words, number)
    told = [description for kind, description in events if not _PLAIN.match(kind)]
    return TaskState("ended", state, re.sub(r"\[\w+ \d+\] ", "", ", ".join(told)))


def waiting_words(message: str) -> str:
    """Why a job waits.

    >>> waiting_words("R=1,W=2:0:0,J=B,N=decode (Karma=0.000,quota_ok)")
    ''
    >>> waiting_words("No enough matching resources (no_matching_slot)")
    'No enough matching resources (no_matching_slot)'
    """
    # Once it was scheduled, the message only repeats what was asked for.
    return "" if re.match(r"R=\d+,W=[\d:]+,J=", message) else message
