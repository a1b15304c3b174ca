"""What Slurm's words mean, checked against 22.05: squeue(1), sacct(1)."""

from __future__ import annotations

import re

from espnet3._structs import Struct
from espnet3.schedulers.base import TaskState

_QUEUED = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
# Ends from outside. squeue(1), "JOB STATE CODES"; OUT_OF_ME is what narrow columns leave of one.
STOPPED = {
    "TIMEOUT": "time limit",
    "DEADLINE": "deadline",
    "CANCELLED": "cancelled",
    "PREEMPTED": "preempted",
    "NODE_FAIL": "node failed",
    "BOOT_FAIL": "node failed to boot",
    "OUT_OF_MEMORY": "out of memory",
    "OUT_OF_ME": "out of memory",
    "REVOKED": "revoked",
}

# squeue(1), "JOB REASON CODES"; what is not here says enough by itself (Resources, Priority).
_WAITS = {
    "BadConstraints": "no node can satisfy its options",
    "BeginTime": "waits for its start time, as after a requeue",
    "Dependency": "waits for another job",
    "DependencyNeverSatisfied": "never starts, since the job that it waits for failed",
    "JobArrayTaskLimit": "as many tasks of its array run as may at a time",
    "JobHeldAdmin": "held by an administrator",
    "JobHeldUser": "held, `scontrol release` lets it start",
    "PartitionConfig": "the partition has no node for its options, so it never starts",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs",
    "PartitionNodeLimit": "the partition has no node for its options, so it never starts",
    "PartitionTimeLimit": "its walltime is beyond the partition's limit, so it never starts",
    "ReqNodeNotAvail": "the nodes that it needs are down, drained or reserved",
    "launch_failed_requeued_held": "held after it could not be launched, see its log and node",
    "job_requeued_in_held_state": "requeued and held, `scontrol release` lets it start",
}
_LIMITS = re.compile(r"Assoc|QOS|MaxJobsPer|MaxSubmit")
# Reasons that only repeat the state.
_PLAIN = {"None", "(null)", "NodeDown", "TimeLimit", "OutOfMemory"}
# Of an ended job squeue may still show why it waited; these are why it ended.
_ENDS = {"JobLaunchFailure", "NonZeroExitCode", "RaisedSignal", "BootFailure", "SystemFailure"}


class Ending(Struct):
    """How a batch script ended: its exit code, and the signal that ended it (0: none)."""

    code: int = 0
    signal: int = 0

    @classmethod
    def of_wait_status(cls, text: str) -> Ending | None:
        """From the number that squeue's `exit_code` shows, which is that of wait(2)."""
        if not text.isdecimal():
            return None
        if text == "1":  # slurmctld's own for a job that it gives up before a start, no SIGHUP
            return cls(1, 0)
        return cls(int(text) >> 8 & 0xFF, _signal(int(text) & 0x7F))

    @classmethod
    def of_sacct(cls, text: str) -> Ending | None:
        """From sacct's `code:signal`."""
        found = re.fullmatch(r"(\d+):(\d+)", text)
        if found is None:
            return None
        return cls(int(found[1]), _signal(int(found[2])))


def _signal(number: int) -> int:
    """The number; 0 for those that Slurm made up (125 for out of memory)."""
    return number if number <= 64 else 0


def queued_words(reason: str) -> str:
    """Why a job waits, for a person, with Slurm's own word for it.

    >>> queued_words("JobHeldUser"), queued_words("Priority")
    ('held, `scontrol release` lets it start (JobHeldUser)', 'Priority')
    """
    if reason in _PLAIN:
        return ""
    words = _WAITS.get(reason.replace(" ", "_"), "")
    if not words and _LIMITS.search(reason):
        words = "a limit of its account or QOS"
    return f"{words} ({reason})" if words else reason


def task_state(word: str, reason: str, ending: Ending | None = None) -> TaskState:
    """A row's state and reason as a TaskState.

    Args:
        word: the state; `CANCELLED by 1000` and, in narrow columns, `OUT_OF_ME+` are such too.
        reason: squeue's reason, or "".
        ending: how the task ended, where that is known.
    """
    first, _, rest = word.strip().partition(" ")
    short = first.rstrip("+")
    if short in _QUEUED:
        return TaskState("queued", short, queued_words(reason))
    if short in _RUNNING:
        return TaskState("running", short, "" if reason in _PLAIN else reason)
    said = [re.sub(r"^by (\d+)$", r"by user \1", rest)]
    if reason == "BadConstraints":  # the job has never run
        said.append(queued_words(reason))
    elif ending is not None and ending != Ending():
        # "JobLaunchFailure" is squeue's reason wherever a signal has ended the batch script.
        said.append(f"signal {ending.signal}" if ending.signal else f"exit code {ending.code}")
    elif reason in _ENDS:
        said.append(reason)
    number = ending.signal if ending else 0
    return TaskState("ended", short, ", ".join(filter(None, said)), number, STOPPED.get(short, ""))
