"""What kind of cause it is that a shard is not done. Pure; exit codes count for nothing."""

from __future__ import annotations

import signal

from espnet3.schedulers.base import TaskState
from espnet3.specs.models import AttemptRecord
from espnet3.status.run_status import Kind

# Signals that end a process without a word. The first ones are sent by the kernel, an administrator
# or the scheduler; the others come from native code in the process itself.
FROM_OUTSIDE = {
    int(signal.SIGKILL): "SIGKILL, often for want of memory",
    **{int(number): number.name for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)},
    **{int(number): number.name for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)},
}
CRASHES = {
    int(number): number.name
    for number in (
        signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS,
        signal.SIGTRAP,
    )
}  # fmt: skip
# `TaskState.stopped`, whose words all dialects share. What may be one limit or another, and limits
# of processor time, processes and threads, which neither more memory nor more time raises, are
# "killed".
_STOPPED: dict[str, Kind] = {
    "out of memory": "memory",
    "time limit": "time",
    "preempted": "preempted",
    "node failed": "node",
    "node failed to boot": "node",
    "cancelled": "cancelled",
    "deadline": "cancelled",
    "revoked": "cancelled",
}
# Python's, NumPy's and Arrow's; their names are all that a record has.
_MEMORY_ERRORS = frozenset({"MemoryError", "_ArrayMemoryError", "ArrowMemoryError"})
_ENOMEM = "[Errno 12] "
_TORCH_ON_THE_HOST = "DefaultCPUAllocator: "


def kind_of_failure(record: AttemptRecord) -> Kind:
    """The kind of what an attempt recorded when it failed."""
    error = record.error
    if error is None:  # others recorded that those who tried it never said a word
        return "silent"
    if error.type in _MEMORY_ERRORS or error.message.startswith(_ENOMEM):
        return "memory"
    message = error.message.lower()
    if error.type == "OutOfMemoryError" or ("cuda" in message and "out of memory" in message):
        return "cuda-memory"
    return "memory" if _TORCH_ON_THE_HOST in error.message else "error"


def kind_of_end(why: str, told: TaskState | None, *, said: bool) -> Kind:
    """The kind of an end that was no failure of the attempt's own.

    Args:
        why: what stopped it, in the words of `TaskState.stopped`, and perhaps why, after a comma;
            "" where nobody knows.
        told: what the scheduler says of its task.
        said: whether the attempt itself recorded that a signal ended it.
    """
    if why:
        return _STOPPED.get(why.partition(", ")[0], "killed")
    number = told.signal if told is not None else 0
    if said or number in FROM_OUTSIDE:
        return "killed"
    if number in CRASHES:
        return "crashed"
    never = told is not None and not told.begun
    return "not-submitted" if never else "silent"
