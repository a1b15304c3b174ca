"""What LSF's states, exit codes and termination reasons mean. From the references of LSF 10.1."""

from __future__ import annotations

from espnet3.schedulers.base import TaskState

_QUEUED = frozenset({"PEND", "PSUSP", "WAIT", "PROV"})
_ENDED = frozenset({"DONE", "EXIT", "POST_DONE", "POST_ERR"})
# "Termination reasons displayed by bacct, bhist, and bjobs".
STOPPED = {
    "TERM_RUNLIMIT": "time limit", "TERM_DEADLINE": "time limit",
    "TERM_MEMLIMIT": "out of memory", "TERM_SWAP": "out of memory",
    "TERM_CPULIMIT": "a limit of processor time",
    "TERM_PROCESSLIMIT": "a limit of processes", "TERM_THREADLIMIT": "a limit of threads",
    "TERM_OWNER": "cancelled", "TERM_FORCE_OWNER": "cancelled", "TERM_ADMIN": "cancelled",
    "TERM_FORCE_ADMIN": "cancelled", "TERM_BUCKET_KILL": "cancelled",
    "TERM_ORPHAN_SYSTEM": "cancelled",
    "TERM_PREEMPT": "preempted", "TERM_LOAD": "preempted", "TERM_WINDOW": "preempted",
    "TERM_RC_RECLAIM": "preempted",
    "TERM_REMOVE_HUNG_JOB": "node failed", "TERM_ZOMBIE": "node failed",
}  # fmt: skip


def task_state(
    name: str, word: str, code: str = "", exit_reason: str = "", pend_reason: str = ""
) -> TaskState:
    """What bjobs tells of a task, or of a job that is no array, as a TaskState.

    Args:
        name: the task as bkill takes it.
        word: field `stat`.
        code: field `exit_code`; "" for none, as in the others.
        exit_reason: field `exit_reason`.
        pend_reason: field `pend_reason`.
    """
    if word in _QUEUED:
        return TaskState("queued", word, queued_words(name, word, pend_reason))
    if word in _ENDED:
        return _ended(code, exit_reason)
    # A word that is not known is never taken for an end.
    return TaskState("running", word, _running_words(name, word))


def queued_words(name: str, word: str, pend_reason: str) -> str:
    """Why a task waits, for a person; "" where LSF does not say.

    >>> queued_words("7[1]", "PSUSP", "")
    'held, `bresume 7[1]` lets it start'
    """
    if word == "PSUSP":
        return f"held, `bresume {name}` lets it start"
    return "; ".join(filter(None, (part.strip() for part in pend_reason.split(";"))))


def _running_words(name: str, word: str) -> str:
    return {
        "USUSP": f"suspended, `bresume {name}` lets it go on",
        "SSUSP": "suspended by LSF",
        "UNKWN": "its host does not answer",
        "ZOMBI": f"killed, but its host does not answer; `bkill -r {name}` gives it up",
    }.get(word, "")


def _ended(code: str, exit_reason: str) -> TaskState:
    status = int(code) if code.isdecimal() and len(code) < 10 else 0
    signal = status - 128 if 128 < status <= 128 + 64 else 0
    word, _, words = exit_reason.partition(":")
    stopped = STOPPED.get(word.strip(), "")
    told = "" if stopped else words.strip().rstrip(".")
    said = f"signal {signal}" if signal else f"exit code {status}" * bool(status)
    return TaskState("ended", "", ", ".join(filter(None, [told, said])), signal, stopped)
