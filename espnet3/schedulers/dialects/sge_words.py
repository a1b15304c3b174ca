"""What SGE's states, error codes and limits mean. Checked with Son of Grid Engine 8.1.9."""

from __future__ import annotations

import re
from collections.abc import Mapping

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.walltimes import clock_seconds

# sge_status(5), "failed" values.
LIMIT = 37
_SIGNALLED = {17, LIMIT, 100}
_RERUN = {24, 25}
_EXITED_100 = 30


def is_queued(state: str) -> bool:
    """Whether letters of qstat's state are a waiting task's; sge_status(5).

    >>> is_queued("hqw"), is_queued("Rq"), is_queued("dRr"), is_queued("z")
    (True, True, False, False)
    """
    return "q" in state


def live_state(state: str, job_id: str, after: str = "") -> TaskState:
    """A row of qstat as a TaskState.

    Args:
        state: the letters of its state.
        job_id: the job's.
        after: ids of the jobs that it waits for, or "".
    """
    if "z" in state:
        return TaskState("ended")
    if not is_queued(state):
        return TaskState("running", state, _running_words(state))
    said: list[str] = []
    if "E" in state:
        said.append(f"in an error state, `qmod -cj {job_id}` lets it start again")
    elif "h" in state:
        said.append(f"waits for job {after}" if after else f"held, `qrls {job_id}` lets it start")
    if "R" in state:
        said.append("requeued")
    words = ", ".join(said)
    return TaskState("queued", state, f"{words} ({state})" if words else "")


def with_error(state: TaskState, error: str) -> TaskState:
    """The same, with what SGE says of a task's error ("" for none)."""
    return state._replace(reason=f"{state.reason}: {error}") if error else state


def _running_words(state: str) -> str:
    if "d" in state:
        return "being deleted"
    return "suspended" if {"s", "S", "T"}.intersection(state) else ""


def ended_state(record: Mapping[str, str]) -> TaskState:
    """The last record that qacct has of a task as a TaskState.

    Args:
        record: the fields of `qacct -j` by their names.
    """
    code, _, words = record.get("failed", "").partition(":")
    failed, status = _number(code), _number(record.get("exit_status", ""))
    signal = status - 128 if failed in _SIGNALLED and 128 < status <= 128 + 64 else 0
    if failed == LIMIT:
        stopped, said = _limit(record), f"signal {signal}" if signal else ""
    elif failed == _EXITED_100:
        stopped, said = "", "exit code 100, which SGE takes for an error of the job"
    elif failed in _RERUN:
        stopped, said = "", "ended after it was requeued"
    elif failed and failed not in _SIGNALLED:
        stopped, said = "", words.strip()
    else:
        stopped, said = "", f"signal {signal}" if signal else f"exit code {status}" * bool(status)
    return TaskState("ended", "", said, signal, stopped)


def _limit(record: Mapping[str, str]) -> str:
    """Which limit ended a task: SGE has one code for h_rt, h_cpu and h_vmem."""
    asked = re.search(r"\bh_rt=([\d:]+)", record.get("category", ""))
    limit = clock_seconds(asked[1], lone="seconds") if asked else None
    elapsed = record.get("ru_wallclock", "").rstrip("s")
    if limit is not None and _number(elapsed) >= limit:
        return "time limit"
    return "a limit of time or memory (h_rt, h_cpu or h_vmem)"


def _number(text: str) -> int:
    """The number that a text begins with; 0 for none."""
    found = re.match(r"\s*(\d+)", text)
    return int(found[1]) if found else 0
