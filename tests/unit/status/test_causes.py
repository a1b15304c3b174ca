"""The kind of a cause, by evidence: the attempt's own record, the scheduler's word, the signal."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import pytest

from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers import qsub, slurm_states
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.dialects import htcondor, lsf, moab, oar, sge
from espnet3.specs.models import AttemptRecord, ErrorRecord
from espnet3.status import causes
from espnet3.status.run_status import Kind, ShardStatus
from tests.unit.status.test_shard_states import record, states, submission

STARTED = record("started")
STOPPED = record("interrupted", cause="signal SIGTERM", items_done=4, elapsed=70.5, minutes=1)


def failed(kind: str, message: str = "x") -> AttemptRecord:
    """An attempt that failed by such an exception."""
    error = ErrorRecord(type=kind, message=message)
    return record("failed", cause=f"forward failed: {kind}", error=error, minutes=2)


def stopped(words: str) -> TaskState:
    """A task that was stopped from outside."""
    return TaskState("ended", stopped=words)


def killed(number: int) -> TaskState:
    """A task that a signal has ended."""
    return TaskState("ended", "FAILED", f"signal {number}", number)


class Row(NamedTuple):
    """What is known of a shard, and the kind that its cause is."""

    kind: str | None
    told: TaskState | None = None
    records: list[AttemptRecord] = []  # noqa: RUF012 (never changed)
    other: Mapping[str, Any] = {}
    submitted: Mapping[str, Any] | None = {}


EXIT_137 = TaskState("ended", "FAILED", "exit code 137")
NEVER = TaskState("ended", "FAILED", begun=False)
CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 23.69 GiB total capacity)"
HOST = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. Error code 12"

ROWS = [
    # The attempt's own record counts most.
    Row("error", None, [failed("ValueError")]),
    Row("error", EXIT_137, [failed("OSError", "[Errno 28] No space left on device")]),
    Row("memory", None, [failed("MemoryError", "")]),
    Row("memory", None, [failed("_ArrayMemoryError", "Unable to allocate 8 GiB")]),
    Row("memory", None, [failed("OSError", "[Errno 12] Cannot allocate memory")]),
    Row("memory", None, [failed("RuntimeError", f"[enforce fail at a.cpp:1] . {HOST}")]),
    Row("error", None, [failed("ValueError", "no such file: [Errno 12] x")]),
    Row("cuda-memory", None, [failed("OutOfMemoryError", CUDA)]),
    Row("cuda-memory", None, [failed("OutOfMemoryError", "HIP is full")]),
    Row("cuda-memory", None, [failed("RuntimeError", CUDA)]),
    Row("cuda-memory", None, [failed("RuntimeError", "CUDA error: out of memory")]),
    Row("error", None, [failed("RuntimeError", "CUDA error: device-side assert triggered")]),
    Row("error", stopped("out of memory"), [failed("ValueError")]),
    Row("memory", stopped("time limit"), [failed("MemoryError")]),
    Row("cuda-memory", stopped("preempted"), [STARTED, failed("OutOfMemoryError", CUDA)]),
    Row("error", None, [failed("ValueError")], {"cancelled": {1}}),
    Row("silent", None, [record("failed", cause="3 workers ended at it without a word")]),
    # Then the scheduler's word, also of who sent the signal that the attempt saw.
    Row("memory", stopped("out of memory"), [STARTED]),
    Row("memory", stopped("out of memory"), [STARTED, STOPPED]),
    Row("time", stopped("time limit"), [STARTED]),
    Row("time", stopped("time limit"), [STARTED, STOPPED]),
    Row("preempted", stopped("preempted"), [STARTED, STOPPED]),
    Row("preempted", stopped("preempted")),
    Row("node", stopped("node failed"), [STARTED]),
    Row("node", stopped("node failed to boot")),
    Row("cancelled", stopped("cancelled"), [STARTED]),
    Row("cancelled", stopped("deadline"), [STARTED]),
    Row("cancelled", stopped("revoked"), [STARTED]),
    Row("killed", stopped("a limit of processor time"), [STARTED]),
    Row("killed", stopped("a limit of time or memory (h_rt, h_cpu or h_vmem)"), [STARTED, STOPPED]),
    Row("killed", stopped("a word of the future"), [STARTED]),
    Row("time", stopped("time limit"), [STARTED], {"cancelled": {1}}),
    Row("cancelled", None, [STARTED, STOPPED], {"cancelled": {1}}),
    Row("cancelled", None, [STARTED], {"cancelled": {1}}),
    Row("cancelled", NEVER, [], {"cancelled": {1}}),
    # Then the worker's clock, and the signal.
    Row("time", None, [record("interrupted", cause="signal SIGTERM", elapsed=7197.0)], {},
        {"walltime": "02:00:00"}),
    Row("killed", None, [STARTED, STOPPED], {}, {"walltime": "02:00:00"}),
    Row("killed", None, [STARTED, STOPPED]),
    Row("killed", killed(signal.SIGKILL), [STARTED]),
    Row("killed", killed(signal.SIGTERM)),
    Row("crashed", killed(signal.SIGSEGV), [STARTED]),
    Row("crashed", killed(signal.SIGABRT)),
    Row("silent", killed(signal.SIGPIPE), [STARTED]),
    # Exit codes count for nothing.
    Row("silent", EXIT_137, [STARTED]),
    Row("silent", TaskState("ended", "FAILED", "exit code 143"), [STARTED]),
    Row("killed", TaskState("ended", "FAILED", "exit code 143"), [STARTED, STOPPED]),
    Row("silent", None, [STARTED]),
    Row("silent", TaskState("ended", "COMPLETED")),
    Row("silent"),
    Row("silent", None, [STARTED], {}, None),
    Row("error", None, [failed("ValueError")], {}, None),
    # What never began.
    Row("not-submitted", NEVER),
    Row("not-submitted", None, [], {}, None),
    Row("not-submitted", None, [], {}, {"recorded": False}),
    Row("not-submitted", None, [], {}, {"jobs": [(1, None)], "refused": "it was cut short"}),
    Row("not-submitted", None, [], {}, {"jobs": [(1, None)], "refused": "slurm: no answer"}),
    Row("refused", None, [], {}, {"jobs": [(1, None)], "refused": "invalid partition"}),
    # What lives, or is done.
    Row(None, TaskState("queued"), [STARTED, STOPPED]),
    Row(None, TaskState("queued")),
    Row(None, TaskState("running"), [STARTED]),
    Row(None, TaskState("running"), [STARTED, STOPPED]),
    Row(None, None, [STARTED], {"answered": False}),
    Row(None, None, [], {"being_submitted": {1}}, {"recorded": False}),
    Row(None, stopped("out of memory"), [STARTED], {"receipts": {0}}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[str(number) for number in range(len(ROWS))])
def test_the_kind_of_a_cause(row: Row) -> None:
    entries = [] if row.submitted is None else [submission(**row.submitted)]
    tasks = {} if row.told is None else {(1, 0): row.told}
    [shard] = states(*entries, records=row.records, tasks=tasks, **row.other)
    assert shard.kind == row.kind, shard


def test_the_table_has_every_kind() -> None:
    assert {row.kind for row in ROWS} == {*get_args(Kind), None} - {"not-begun"}


@pytest.mark.parametrize(
    ("kind", "told", "is_other_done"),
    [
        ("not-begun", TaskState("ended", "COMPLETED"), True),
        ("silent", TaskState("ended", "COMPLETED"), False),
        ("not-begun", None, True),
        ("silent", None, False),
        # What ended a worker says nothing of shards that it was not at.
        ("not-begun", stopped("time limit"), False),
        ("not-begun", stopped("out of memory"), True),
        ("cancelled", stopped("cancelled"), True),
        ("silent", EXIT_137, False),
        (None, TaskState("running"), True),
        (None, TaskState("queued"), True),
    ],
)
def test_what_workers_that_share_the_shards_did_not_come_to(
    kind: str | None, told: TaskState | None, is_other_done: bool
) -> None:
    given, recorded = submission(ranks=[0, 1], jobs=[(1, "12")], shards_per_job=2)
    shared = given.model_copy(update={"schedule": "dynamic", "shards_per_job": 1})
    tasks = {} if told is None else {(1, 0): told}
    receipts = {1} if is_other_done else set()
    found = states(KnownSubmission(shared, recorded), tasks=tasks, receipts=receipts, world_size=2)
    assert found[0].kind == kind, found[0]
    assert found[0].state in {"pending", "lost", "interrupted", "running", "queued"}


def test_a_failure_in_a_task_that_goes_on() -> None:
    """It is busy with other shards by then."""
    tasks = {(1, 0): TaskState("running")}
    [shard] = states(submission(), records=[failed("MemoryError")], tasks=tasks)
    assert (shard.state, shard.kind) == ("failed", "memory")


def test_what_the_last_attempt_said() -> None:
    found = states(
        submission(1, ranks=[0, 1, 2]),
        records=[STARTED, STOPPED, record("started", rank=1)],
        tasks={(1, task): TaskState("ended", "FAILED") for task in range(3)},
        world_size=3,
    )
    told = [(shard.items_done, shard.host, shard.elapsed) for shard in found]
    assert told == [(4, "node7", 70.5), (0, "node7", None), (0, None, None)]
    assert ShardStatus(0, "done")[5:] == (None, 0, None, None, None)


def test_every_word_for_a_stop_has_a_kind_or_is_a_limit_that_is_none() -> None:
    tables: list[Mapping[Any, str]] = [
        slurm_states.STOPPED, lsf.STOPPED, oar._STOPPED, htcondor._USED_UP, *qsub._LIMITS.values(),
    ]  # fmt: skip
    told = {words for table in tables for words in table.values()}
    assert all(words.startswith("a limit of ") for words in told - {*causes._STOPPED})
    assert told >= {*causes._STOPPED}


HELD = {"JobStatus": 5, "HoldReasonCode": 34}
LATE = {"failed": "37  : qmaster enforced h_rt", "category": "-l h_rt=4", "ru_wallclock": "5s"}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (slurm_states.task_state("OUT_OF_ME+", ""), "memory"),
        (slurm_states.task_state("TIMEOUT", ""), "time"),
        (slurm_states.task_state("NODE_FAIL", ""), "node"),
        (slurm_states.task_state("CANCELLED by 1000", ""), "cancelled"),
        (slurm_states.task_state("FAILED", "", slurm_states.Ending(0, 9)), "killed"),
        (slurm_states.task_state("FAILED", "", slurm_states.Ending(137, 0)), "silent"),
        (sge.ended_state(LATE), "time"),
        (sge.ended_state({**LATE, "ru_wallclock": "1s"}), "killed"),
        (sge.ended_state({"failed": "100 : assumedly", "exit_status": "139"}), "crashed"),
        (oar.task_state("Error", events=[("WALLTIME", "")]), "time"),
        (oar.task_state("Error", events=[("BESTEFFORT_KILL", "")]), "preempted"),
        (oar.task_state("Error", events=[("CPUSET_ERROR", "")]), "node"),
        (oar.task_state("Terminated", status=9), "killed"),
        (qsub.ended("-27", torque=False, over=False, cancelled=False), "memory"),
        (qsub.ended("-29", torque=False, over=False, cancelled=False), "time"),
        (qsub.ended("-10", torque=True, over=False, cancelled=False), "memory"),
        (qsub.ended("271", torque=True, over=False, cancelled=True), "cancelled"),
        (qsub.ended("265", torque=True, over=False, cancelled=False), "killed"),
        (lsf.task_state("7", "EXIT", "137", "TERM_MEMLIMIT: job killed"), "memory"),
        (lsf.task_state("7", "EXIT", "140", "TERM_RUNLIMIT: job killed"), "time"),
        (lsf.task_state("7", "EXIT", "130", "TERM_PREEMPT: job killed"), "preempted"),
        (lsf.task_state("7", "EXIT", "1", "TERM_ZOMBIE: job exited"), "node"),
        (lsf.task_state("7", "EXIT", "137", "-"), "killed"),
        (htcondor.task_state(HELD, in_queue=True), "memory"),
        (htcondor.task_state({**HELD, "HoldReasonCode": 46}, in_queue=True), "time"),
        (moab.task_state("completed", {"State": "Removed"}), "cancelled"),
        (moab.task_state("completed", {"State": "Vacated"}), "preempted"),
    ],
)
def test_the_words_of_each_scheduler(told: TaskState, kind: str) -> None:
    [shard] = states(submission(), records=[STARTED], tasks={(1, 0): told})
    assert shard.kind == kind, told
