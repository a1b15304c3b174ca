"""From evidence to a state and its cause: one row for everything that may be found."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import TaskKey, TaskState
from espnet3.schedulers.slurm_states import Ending
from espnet3.schedulers.slurm_states import task_state as slurm_state
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.items import ItemList, ItemRange
from espnet3.specs.layout import AttemptFile
from espnet3.specs.models import (
    AcceptedJob,
    AcceptedJobs,
    AttemptRecord,
    PlannedJob,
    ProcessIdentity,
    Submission,
)
from espnet3.status.evidence import Evidence
from espnet3.status.observation import _being_submitted
from espnet3.status.run_status import LIVE, STATES, RunStatus, Shards, ShardStatus
from espnet3.status.shard_states import shard_states

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
ME = ProcessIdentity(host="login", pid=31, started=0.0, user="me")


def submission(
    number: int = 1,
    *,
    ranks: list[int] | None = None,
    jobs: list[tuple[int, str | None]] | None = None,
    shards_per_job: int = 1,
    refused: str | None = None,
    recorded: bool = True,
    **options: Any,
) -> KnownSubmission:
    """A submission whose jobs are (number of tasks, scheduler's id or None)."""
    planned, accepted, first = [], [], 0
    ranks = [0] if ranks is None else ranks
    n_tasks = -(-len(ranks) // shards_per_job)
    for j, (size, job_id) in enumerate(jobs if jobs is not None else [(n_tasks, "12")]):
        name = f"job-{number}-{j}"
        planned.append(PlannedJob(name=name, first_task=first, n_tasks=size, log="l"))
        if job_id is not None:
            accepted.append(AcceptedJob(name=name, job_id=job_id))
        first += size
    made = Submission(
        number=number, created=NOW, submitter=ME, scheduler="slurm", n_workers=1,
        shards_per_job=shards_per_job, options=options, worker_command=[], submit_command=[],
        script="", log_directory="/l",
        parallel={"env": "slurm"}, ranks=ItemList(values=list(ranks)), jobs=planned,
    )  # fmt: skip
    record = AcceptedJobs(
        number=number, created=NOW, recorded_by=ME, jobs=accepted, refused=refused
    )
    return KnownSubmission(made, record if recorded else None)


def record(
    event: str,
    *,
    number: int = 1,
    token: str = "a",
    rank: int = 0,
    minutes: float = 0,
    **details: Any,
) -> AttemptRecord:
    return AttemptRecord(
        event=event,  # type: ignore[arg-type]
        rank=rank, attempt=f"{number:04d}-{token * 12}", task=0, job_id="12", host="node7", pid=1,
        time=NOW + timedelta(minutes=minutes), **details,
    )  # fmt: skip


def states(
    *submissions: KnownSubmission,
    records: list[AttemptRecord] | None = None,
    tasks: dict[TaskKey, TaskState] | None = None,
    answered: bool = True,
    receipts: set[int] | None = None,
    cancelled: set[int] | None = None,
    being_submitted: set[int] | None = None,
    world_size: int = 1,
    unreadable: bool = False,
) -> Shards:
    by_file = {AttemptFile(r.rank, r.attempt, r.event): r for r in records or []}
    found = shard_states(
        Evidence(
            world_size=world_size,
            receipts=receipts or set(),
            records={} if unreadable else by_file,
            submissions=submissions,
            being_submitted=being_submitted or set(),
            cancelled=cancelled or set(),
            tasks=TaskStates(tasks) if answered else None,
        )
    )
    assert [shard.state for shard in found] == found.states
    assert [shard.rank for shard in found] == list(range(world_size))
    return found


class Row(NamedTuple):
    """What is known of one shard, and what is to be said of it."""

    says: str
    state: str
    cause: str
    told: tuple[str, str] | tuple[str, str, Ending] | None = None  # Slurm's word and reason
    records: list[AttemptRecord] = []  # noqa: RUF012 (never changed)
    other: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    submitted: dict[str, Any] | None = {}  # noqa: RUF012 (never changed)


STARTED = record("started")
FAILED = record("failed", minutes=5, cause="forward failed at item 3: ValueError: x")
STOPPED = record("interrupted", minutes=5, cause="signal SIGTERM", items_done=4)
LATER = record("started", token="b", minutes=9)
ALSO_FAILED = record("failed", token="b", minutes=12, cause="no memory")
LATE = record("interrupted", elapsed=7199.0, cause="signal SIGTERM", items_done=4)
EARLY = record("interrupted", elapsed=100.0, cause="signal SIGTERM", items_done=4)
SILENT = "attempt 0001-aaaaaaaaaaaa on node7 ended without a word"
LOG = "its task ended before the shard began"

ROWS = [
    Row("never submitted", "pending", "not submitted yet", submitted=None),
    Row("not submitted, but tried by hand", "failed", FAILED.cause, None, [FAILED], {}, None),
    Row("by hand, still going or dead", "lost", SILENT, None, [STARTED], {}, None),
    Row("waits", "queued", "job 12, Priority", ("PENDING", "Priority")),
    Row("waits, no reason", "queued", "job 12", ("PENDING", "None")),
    Row("waits again after a requeue", "queued",
        "job 12, waits for its start time, as after a requeue (BeginTime)",
        ("PENDING", "BeginTime"), [STARTED]),
    Row("waits again after a preemption", "queued", "job 12", ("REQUEUED", "None"), [STOPPED]),
    Row("held", "queued",
        "job 12, requeued and held, `scontrol release` lets it start (job requeued in held state)",
        ("REQUEUE_HOLD", "job requeued in held state"), [FAILED]),
    Row("a limit of the site", "queued",
        "job 12, a limit of its account or QOS (QOSMaxCpuPerUserLimit)",
        ("PENDING", "QOSMaxCpuPerUserLimit")),
    Row("never starts", "queued",
        "job 12, never starts, since the job that it waits for failed (DependencyNeverSatisfied)",
        ("PENDING", "DependencyNeverSatisfied")),
    Row("starts", "queued", "job 12, its task is starting, or busy with another shard",
        ("RUNNING", "None")),
    Row("runs", "running", "since 2026-01-02 03:04 on node7", ("RUNNING", "None"), [STARTED]),
    Row("runs again after a requeue", "running", "since 2026-01-02 03:13 on node7",
        ("RUNNING", "None"), [STARTED, STOPPED, LATER]),
    Row("completes", "running", "since 2026-01-02 03:04 on node7", ("COMPLETING", "None"),
        [STARTED]),
    Row("failed, task goes on", "failed", FAILED.cause, ("RUNNING", ""), [STARTED, FAILED]),
    Row("failed", "failed", FAILED.cause, ("FAILED", "exit code 1:0"), [STARTED, FAILED]),
    Row("failed, forgotten", "failed", FAILED.cause, None, [STARTED, FAILED]),
    Row("failed at the second attempt", "failed", "no memory", None,
        [STARTED, STOPPED, LATER, ALSO_FAILED]),
    Row("the newest attempt counts", "lost",
        "attempt 0001-bbbbbbbbbbbb on node7 ended without a word, job 12, FAILED",
        ("FAILED", ""), [STARTED, FAILED, LATER]),
    Row("time limit", "interrupted", "time limit, signal SIGTERM, 4 items done",
        ("TIMEOUT", ""), [STARTED, STOPPED]),
    Row("preempted", "interrupted", "preempted, signal SIGTERM, 4 items done",
        ("PREEMPTED", ""), [STARTED, STOPPED]),
    Row("by signal, forgotten", "interrupted", "signal SIGTERM, 4 items done", None,
        [STARTED, STOPPED]),
    Row("time limit, without a word", "interrupted", "time limit, job 12", ("TIMEOUT", ""),
        [STARTED]),
    Row("out of memory", "interrupted", "out of memory, job 12",
        ("OUT_OF_MEMORY", "OutOfMemory"), [STARTED]),
    Row("out of memory, cut short", "interrupted", "out of memory, job 12", ("OUT_OF_ME+", ""),
        [STARTED]),
    Row("node failed", "interrupted", "node failed, job 12", ("NODE_FAIL", ""), [STARTED]),
    Row("node did not boot", "interrupted", "node failed to boot, job 12", ("BOOT_FAIL", "")),
    Row("cancelled while it waited", "interrupted", "cancelled, job 12, by user 1000",
        ("CANCELLED by 1000", "")),
    Row("cancelled while it ran", "interrupted", "cancelled, signal SIGTERM, 4 items done",
        ("CANCELLED by 1000", ""), [STARTED, STOPPED]),
    Row("deadline", "interrupted", "deadline, job 12", ("DEADLINE", "")),
    Row("revoked", "interrupted", "revoked, job 12", ("REVOKED", "")),
    Row("killed", "interrupted",
        f"killed by SIGKILL, often for want of memory, {SILENT}, job 12",
        ("FAILED", "JobLaunchFailure", Ending(0, 9)), [STARTED]),
    Row("killed before it began", "interrupted", f"killed by SIGTERM, {LOG}, job 12",
        ("FAILED", "JobLaunchFailure", Ending(0, 15))),
    Row("hung up before it began", "interrupted", f"killed by SIGHUP, {LOG}, job 12",
        ("FAILED", "JobLaunchFailure", Ending(0, 1))),
    Row("crashed", "lost", f"crashed by SIGSEGV, {SILENT}, job 12",
        ("FAILED", "JobLaunchFailure", Ending(0, 11)), [STARTED]),
    Row("killed, but it is not known by what", "lost",
        f"{SILENT}, job 12, FAILED JobLaunchFailure", ("FAILED", "JobLaunchFailure"), [STARTED]),
    Row("given up by the scheduler", "lost",
        f"{LOG}, job 12, FAILED no node can satisfy its options (BadConstraints)",
        ("FAILED", "BadConstraints", Ending(1, 0))),
    Row("no such interpreter", "lost", f"{LOG}, job 12, FAILED exit code 127",
        ("FAILED", "NonZeroExitCode", Ending(127, 0))),
    Row("died, forgotten", "lost", f"{SILENT}, job 12", None, [STARTED]),
    Row("died before it began", "lost", f"{LOG}, job 12, FAILED", ("FAILED", "")),
    Row("ended well without a receipt", "lost", f"{LOG}, job 12, COMPLETED", ("COMPLETED", "")),
    Row("nothing known", "lost", f"{LOG}, job 12"),
    Row("cancelled by espnet3, no word", "interrupted", "cancelled, job 12", ("FAILED", ""),
        [STARTED], {"cancelled": {1}}),
    Row("being submitted", "queued", "being submitted by process 31 on login", None, [],
        {"being_submitted": {1}}, {"recorded": False}),
    Row("submitter died", "pending", "submission 0001 did not reach the scheduler", None, [], {},
        {"recorded": False}),
    Row("refused", "pending", "refused by the scheduler, invalid partition", None, [], {},
        {"jobs": [(1, None)], "refused": "invalid partition"}),
    Row("no answer to the submission", "pending", "slurm: sbatch gave no answer within 5 s", None,
        [], {}, {"jobs": [(1, None)], "refused": "slurm: sbatch gave no answer within 5 s"}),
    Row("cut short", "pending", "submission 0001 was cut short", None, [], {},
        {"jobs": [(1, None)], "refused": "it was cut short"}),
    Row("no answer, waits", "queued", "job 12, the scheduler does not answer", None, [],
        {"answered": False}),
    Row("no answer, runs", "running",
        "since 2026-01-02 03:04 on node7, the scheduler does not answer", None, [STARTED],
        {"answered": False}),
    Row("no answer, failed", "failed", FAILED.cause, None, [STARTED, FAILED],
        {"answered": False}),
    Row("no answer, stopped", "interrupted", "signal SIGTERM, 4 items done", None,
        [STARTED, STOPPED], {"answered": False}),
    Row("by the clock", "interrupted", "time limit, signal SIGTERM, 4 items done", None, [LATE],
        {}, {"walltime": "02:00:00"}),
    Row("long before the limit", "interrupted", "signal SIGTERM, 4 items done", None, [EARLY],
        {}, {"walltime": "02:00:00"}),
    Row("the scheduler knows better", "interrupted", "preempted, signal SIGTERM, 4 items done",
        ("PREEMPTED", ""), [LATE], {}, {"walltime": "02:00:00"}),
    Row("records that cannot be read", "lost", f"{LOG}, job 12, FAILED", ("FAILED", ""),
        [STARTED, FAILED], {"unreadable": True}),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.says for row in ROWS])
def test_a_shard_without_a_receipt(row: Row) -> None:
    entries = [] if row.submitted is None else [submission(**row.submitted)]
    tasks = {} if row.told is None else {(1, 0): slurm_state(*row.told)}
    [shard] = states(*entries, records=row.records, tasks=tasks, **row.other)
    assert (shard.state, shard.cause) == (row.state, row.cause)
    place = (None, None) if row.submitted is None else (1, 0)
    assert (shard.submission, shard.task) == place


@pytest.mark.parametrize("row", ROWS, ids=[row.says for row in ROWS])
def test_a_receipt_settles_it(row: Row) -> None:
    entries = [] if row.submitted is None else [submission(**row.submitted)]
    tasks = {} if row.told is None else {(1, 0): slurm_state(*row.told)}
    [shard] = states(*entries, records=row.records, tasks=tasks, **row.other, receipts={0})
    assert (shard.state, shard.cause) == ("done", "")


def test_the_table_has_every_state() -> None:
    assert {row.state for row in ROWS} | {"done"} == set(STATES)
    assert set(STATES) > LIVE


def test_only_the_last_submission_of_a_shard_counts() -> None:
    first = submission(1, ranks=[0, 1])
    second = submission(2, ranks=[1], jobs=[(1, "20")])
    found = states(
        first,
        second,
        records=[FAILED, record("failed", rank=1, cause="old")],
        tasks={(1, 0): TaskState("ended", "FAILED"), (1, 1): TaskState("running"),
               (2, 0): TaskState("queued", "PENDING", "Priority")},
        world_size=2,
    )  # fmt: skip
    assert found == [
        ShardStatus(0, "failed", FAILED.cause, 1, 0, "silent", 0, "node7", 0.0),
        ShardStatus(1, "queued", "job 20, Priority", 2, 0),
    ]


def test_tasks_of_arrays_are_named_as_the_scheduler_names_them() -> None:
    array = submission(1, ranks=list(range(5)), jobs=[(3, "12"), (2, "13")])
    tasks = {(1, task): TaskState("queued", "PENDING") for task in range(5)}
    causes = [shard.cause for shard in states(array, tasks=tasks, world_size=5)]
    assert causes == ["job 12_0", "job 12_1", "job 12_2", "job 13_0", "job 13_1"]


def test_shards_of_one_task_have_states_of_their_own() -> None:
    packed = submission(1, ranks=[0, 1, 2, 3], shards_per_job=3, jobs=[(2, "12")])
    found = states(
        packed,
        records=[record("started", rank=0), record("failed", rank=0, cause="x", minutes=1),
                 record("started", rank=1, minutes=2)],
        tasks={(1, 0): TaskState("running", "RUNNING"), (1, 1): TaskState("queued", "PENDING")},
        world_size=4,
    )  # fmt: skip
    assert [(s.state, s.task) for s in found] == [
        ("failed", 0),
        ("running", 0),
        ("queued", 0),
        ("queued", 1),
    ]
    assert found[2].cause == "job 12_0, its task is starting, or busy with another shard"


def test_a_job_of_a_submission_that_was_refused_in_part() -> None:
    part = submission(1, ranks=[0, 1], jobs=[(1, "12"), (1, None)], refused="limit reached")
    found = states(part, tasks={(1, 0): TaskState("running", "RUNNING")}, world_size=2)
    assert [(s.state, s.cause) for s in found] == [
        ("queued", "job 12, its task is starting, or busy with another shard"),
        ("pending", "refused by the scheduler, limit reached"),
    ]


def test_a_rank_that_stands_twice_in_a_submission() -> None:
    twice = submission(1, ranks=[3, 0, 3])
    ended, waits = TaskState("ended", "FAILED"), TaskState("queued", reason="Priority")
    for tasks in ({(1, 0): ended, (1, 2): waits}, {(1, 0): waits, (1, 2): ended}):
        found = states(twice, tasks=tasks, world_size=4)
        assert found.states[3] == "queued"
        assert found[3][:5] == (3, "queued", f"job 12_{found[3].task}, Priority", 1, found[3].task)
    assert states(twice, receipts={3}, world_size=4)[3].task == 0


def test_done_shards_are_told_by_the_newest_submission_that_holds_them() -> None:
    first = submission(1, ranks=list(range(10)), shards_per_job=2)
    whole = first.submission.model_copy(update={"ranks": ItemRange(start=0, stop=10)})
    later = submission(2, ranks=[7, 2])
    found = states(first._replace(submission=whole), later, receipts={*range(12)}, world_size=12)
    assert [(s.submission, s.task) for s in found[:3]] == [(1, 0), (1, 0), (2, 1)]
    assert [(s.submission, s.task) for s in found[7:11:3]] == [(2, 0), (None, None)]


def test_a_status_can_be_kept() -> None:
    found = states(submission(1, ranks=[0, 1]), tasks={(1, 1): TaskState("queued")}, world_size=2)
    kept = pickle.loads(pickle.dumps(RunStatus("/r", found)))
    assert kept == RunStatus("/r", found)
    assert kept.shards.states == ["lost", "queued"]


def test_a_huge_run_is_one_pass() -> None:
    big = submission(1, ranks=list(range(20_000)))
    whole = big.submission.model_copy(update={"ranks": ItemRange(start=0, stop=20_000)})
    found = states(big._replace(submission=whole), world_size=20_000, receipts=set(range(19_999)))
    assert RunStatus("/r", found).counts() == {"done": 19_999, "lost": 1}


def test_a_run_status_sums_up() -> None:
    shards = [ShardStatus(0, "done"), ShardStatus(1, "failed", "why"), ShardStatus(2, "running")]
    run = RunStatus("/r", Shards.of(shards))
    assert run.not_done() == run.shards[1:] == shards[1:]
    assert list(run.shards) == shards == run.shards
    assert run.shards[-1] == shards[-1]
    with pytest.raises(IndexError):
        run.shards[3]
    assert list(run.counts().items()) == [("done", 1), ("running", 1), ("failed", 1)]
    assert (run.done, run.live) == (False, True)
    assert run.unfinished() == {1: "failed: why", 2: "running"}
    done = RunStatus("/r", Shards.of([ShardStatus(0, "done")]))
    assert (done.done, done.live, done.unfinished()) == (True, False, {})


# --- submitters elsewhere ------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "found"), [(0, {1}), (-1, set()), (365, set())])
def test_a_submitter_elsewhere_is_believed_for_a_while_also_where_its_clock_is_ahead(
    days: int, found: set[int]
) -> None:
    made, _ = submission(recorded=False)
    created = datetime.now(UTC) + timedelta(days=days)
    known = KnownSubmission(made.model_copy(update={"created": created}), None)
    assert _being_submitted([known], set()) == found
