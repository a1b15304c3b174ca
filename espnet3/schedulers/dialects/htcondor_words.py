"""What the states, reasons and exit codes in a job's ad mean.

From "Job ClassAd Attributes" in HTCondor's manual, JobStatus and HoldReasonCode above all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from espnet3.schedulers.base import TaskState

_REMOVED, _COMPLETED, _HELD = 3, 4, 5
_QUEUED = {1: "Idle", _HELD: "Held"}
_RUNNING = {2: "Running", 6: "Transferring Output", 7: "Suspended"}
# Hold codes of jobs that have used up what they asked for; they would end in the same way again.
_USED_UP = {34: "out of memory", 46: "time limit", 47: "time limit"}
# What HTCondor itself gives as the reason for a removal.
_BY_EXPRESSION = re.compile(r"The (job attribute|system macro) \w+ expression ")
# Why a factory, which makes a throttled cluster's jobs one by one, makes none; 1 is by condor_hold.
_PAUSED_BY_HOLD = 1


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
    """Why a task of a throttled cluster is no job yet, for a person.

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
