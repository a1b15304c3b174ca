"""A run that finishes itself is stopped where the first failing shards say that nothing works."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from espnet3.parallel import BaseRunner
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.local_processes import LocalScheduler
from espnet3.specs import layout
from espnet3.specs.models import (
    AcceptedJob,
    AttemptRecord,
    Cancellation,
    ErrorRecord,
    RunSpec,
    Submission,
    encode,
    now,
)
from espnet3.storage.base import Store
from espnet3.worker import dynamic, exit_codes
from espnet3.worker.early_end import Common, EarlyEnd, common_failure
from espnet3.worker.main import main
from tests.support.worker_runs import records_of, run_worker, submit_again, write_run

TYPO = 'Traceback (most recent call last):\n  File "/w/shard.py", line 9, in x\n'
TYPO += "  File \"/home/u/decode.py\", line 12, in forward\n    return x\nNameError: name 'x'\n"
OTHER = TYPO.replace("line 12", "line 13")
WORDS = "NameError: of item 0, at decode.py:12, in the first three shards that failed, "
WORDS += "and none is done"
BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
_tokens = itertools.count(1)


def failure(rank: int, traceback: str = TYPO, kind: str = "NameError", **other: Any) -> Any:
    """An attempt at a shard failed, as many seconds after the others as its rank is higher."""
    details: dict[str, Any] = {
        "attempt": f"0001-{next(_tokens):012x}",
        "pid": 100 + rank,
        "host": "node1",
        "time": BEGAN + timedelta(seconds=rank),
        "cause": f"forward failed at item {rank}: NameError: of item {rank}",
        "error": ErrorRecord(type=kind, message=f"of item {rank}", traceback=traceback),
    }
    return AttemptRecord(event="failed", rank=rank, task=rank, job_id="7", **details | other)


@pytest.mark.parametrize(
    ("records", "stops"),
    [
        ([], False),
        ([failure(0), failure(1)], False),
        ([failure(0), failure(1), failure(2)], True),
        ([failure(2), failure(1), failure(0)], True),
        ([failure(0), failure(1), failure(2), failure(3, OTHER)], True),
        # Another one among the first three: by place, by type, or no exception of the user's.
        ([failure(0), failure(1), failure(2, OTHER), failure(3)], False),
        ([failure(0, kind="KeyError"), failure(1), failure(2), failure(3)], False),
        ([failure(0, error=None, cause="3 workers ended at it"), *map(failure, (1, 2, 3))], False),
        ([failure(i, cause="the worker failed: OSError: x") for i in range(3)], False),
        ([failure(i, TYPO.replace("home/u", "x/espnet3/storage")) for i in range(3)], False),
        ([failure(i, "", "UnserializableResult") for i in range(3)], True),
        ([failure(i, "") for i in range(3)], False),
        # There may be more memory in the next wave.
        ([failure(i, kind="MemoryError") for i in range(3)], False),
        # One shard that was tried thrice.
        ([failure(0), failure(0), failure(0), failure(1)], False),
        # A group, whose traceback is drawn as a tree.
        ([failure(i, TYPO.replace("  File", "  |   File")) for i in range(3)], True),
    ],
)
def test_three_that_agree_stop_it(records: list[AttemptRecord], stops: bool) -> None:
    assert (common_failure(records) is not None) is stops


def test_the_cause_says_what_and_where() -> None:
    records = [failure(0), failure(1, host="node2"), failure(2), failure(3, OTHER, host="node3")]
    assert common_failure(records) == Common(WORDS, frozenset({"node1", "node2"}))


def test_what_a_process_could_not_begin_counts_once() -> None:
    lost = [failure(rank, pid=1) for rank in range(5)]
    assert common_failure(lost, begun=()) is None
    assert common_failure(lost, begun={record.attempt for record in lost}) is not None
    assert common_failure([*lost, failure(5), failure(6)], begun=()) is not None


class Typo(BaseRunner):
    """Raises at every item, but for those of `good`; `own` says where each raises its own way."""

    @staticmethod
    def forward(idx: int, *, config: dict[str, Any]) -> int:
        if idx in config.get("good", ()):
            return idx
        if config.get("own"):
            raise [KeyError, IndexError, ValueError][idx % 3](f"of {idx}")
        raise NameError(f"name 'x{idx}' is not defined")


CONFIG: dict[str, Any] = {"n_shards": 6, "runner": Typo, "finish": True, "schedule": "static"}
SHARED = CONFIG | {"schedule": "dynamic", "n_workers": 2}


def work(store: Store, tasks: Iterator[int] | range, number: int = 1) -> list[int]:
    """The exit codes of the workers of some tasks, one after the other."""
    words = [store.root, f"{number:04d}", "--task"]
    return [main([*words, str(task)]) for task in tasks]


def cancellation(store: Store, number: int = 1) -> Cancellation:
    return RunDirectory(store).read(Cancellation, layout.cancellation(number))


def begun(store: Store) -> list[int]:
    return [record.rank for record in records_of(store, "started")]


def test_a_typo_ends_the_submission_at_its_third_shard(store: Store) -> None:
    write_run(store, {}, **CONFIG)
    codes = work(store, range(6))
    assert codes == [exit_codes.FAILED] * 3 + [exit_codes.DONE] * 3
    assert begun(store) == [0, 1, 2]
    cause = cancellation(store).cause
    assert cause.startswith("NameError: name 'x0' is not defined, at test_early_end.py:")
    assert cause.endswith(", in the first three shards that failed, and none is done")


def test_a_task_of_many_shards_ends_within(store: Store) -> None:
    write_run(store, {}, **CONFIG, shards_per_job=6)
    assert work(store, range(1)) == [exit_codes.FAILED]
    assert begun(store) == [0, 1, 2]
    assert len(records_of(store, "failed")) == 3


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_an_environment_that_fails_three_workers(store: Store, schedule: str) -> None:
    config: dict[str, Any] = {"n_shards": 12, "n_workers": 6, "schedule": schedule, "finish": True}
    config |= {"shards_per_job": 2} if schedule == "static" else {}
    write_run(store, {"raises": "ValueError"}, range(12), **config)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    codes = [run_worker(store.root, task=task).returncode for task in range(6)]
    assert codes == [exit_codes.FAILED] * 3 + [exit_codes.DONE] * 3
    assert "ValueError: two lines, at worker_runs.py:" in cancellation(store).cause


def test_workers_that_claim_end_too(store: Store) -> None:
    write_run(store, {}, **SHARED)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    assert work(store, range(2)) == [exit_codes.FAILED] * 2
    assert len(records_of(store, "failed")) == 3


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        ({"good": [0]}, {}),  # one shard is done
        ({"own": True}, {}),
        ({}, {"finish": None}),  # somebody watches
        ({}, {"finish": True, "n_shards": 2}),
    ],
)
def test_others_go_on(store: Store, config: dict[str, Any], keys: dict[str, Any]) -> None:
    run = write_run(store, config, **CONFIG | keys)
    work(store, range(run.world_size))
    assert begun(store) == [*range(run.world_size)]
    assert not store.exists(layout.cancellation(1))


def test_an_earlier_submission_s_failures_do_not_count(store: Store) -> None:
    run = write_run(store, {}, **CONFIG)
    work(store, range(3))
    submit_again(store, run, 2)
    work(store, range(2), 2)
    assert not store.exists(layout.cancellation(2))
    work(store, range(2, 3), 2)
    assert store.exists(layout.cancellation(2))


def early_end(store: Store, run: RunSpec) -> EarlyEnd:
    submission = RunDirectory(store).read(Submission, layout.submission(1))
    return EarlyEnd(RunDirectory(store), run, submission, get_scheduler("local"))


def test_a_host_where_all_fails_says_nothing_while_others_work(store: Store) -> None:
    run = write_run(store, {}, **CONFIG)
    directory = RunDirectory(store)
    there = failure(5, error=None, cause="", host="node2").model_copy(update={"event": "started"})
    directory.publish(there)
    for rank in range(3):
        directory.publish(failure(rank, host="node1"))
        directory.publish(failure(rank).model_copy(update={"event": "started"}))
    end = early_end(store, run)
    assert not end.look()
    # Where it fails there too, it is stopped.
    directory.publish(failure(5, host="node2", attempt=there.attempt))
    assert end.look()
    assert end.look()
    assert cancellation(store).cause == WORDS


def test_who_is_second_leaves_the_jobs_to_the_first(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(store, {}, **CONFIG)
    directory = RunDirectory(store)
    for rank in range(3):
        directory.publish(failure(rank).model_copy(update={"event": "started"}))
    asked: list[list[str]] = []

    async def find(self: Any, planned: Any, user: str) -> list[AcceptedJob]:
        return [AcceptedJob(name=job.name, job_id="7") for job in planned]

    async def cancel(self: Any, jobs: Any) -> None:
        asked.append([job.job_id for job in jobs])

    monkeypatch.setattr(LocalScheduler, "find", find)
    monkeypatch.setattr(LocalScheduler, "cancel", cancel)
    started = {r.rank: r.attempt for r in records_of(store, "started")}
    for rank in range(3):
        directory.publish(failure(rank, attempt=started[rank]))
    ends = [early_end(store, run) for _ in range(2)]
    assert [end.look() for end in ends] == [True, True]
    assert asked == [["7"]]


@pytest.mark.parametrize("broken", ["names", "command", "copy"])
def test_only_jobs_of_the_run_are_cancelled(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    run = write_run(store, {}, **CONFIG)
    end = early_end(store, run)
    if broken == "names":
        job = end._submission.jobs[0].model_copy(update={"name": "somebody-else-s"})
        end._submission = end._submission.model_copy(update={"jobs": [job]})
    elif broken == "copy":
        words = [w.replace(store.root, str(tmp_path)) for w in end._submission.worker_command]
        end._submission = end._submission.model_copy(update={"worker_command": words})

    async def find(self: Any, planned: Any, user: str) -> list[AcceptedJob]:
        if broken == "command":
            raise FileNotFoundError("scancel")
        return [AcceptedJob(name=job.name, job_id="7") for job in planned]

    async def cancel(self: Any, jobs: Any) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(LocalScheduler, "find", find)
    monkeypatch.setattr(LocalScheduler, "cancel", cancel)
    end._cancel_jobs()


def test_a_cancellation_of_version_1_has_no_cause(store: Store) -> None:
    write_run(store, {}, **CONFIG)
    old = Cancellation(number=1, created=now(), by=this_process())
    data = encode(old).replace(b'"schema_version":2', b'"schema_version":1')
    store.create(layout.cancellation(1), data.replace(b',"cause":""', b""))
    assert (cancellation(store).schema_version, cancellation(store).cause) == (1, "")
    assert work(store, range(1)) == [exit_codes.DONE]
    assert begun(store) == []


@pytest.mark.parametrize(
    ("config", "keys", "n_failed"),
    [
        ({"own": True}, {}, 2),
        ({"own": True, "good": [0]}, {}, 5),  # which this worker has done
        ({"own": True}, {"finish": None}, 6),
    ],
)
def test_a_worker_at_which_two_shards_fail_fast_claims_no_more(
    store: Store,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    keys: dict[str, Any],
    n_failed: int,
) -> None:
    write_run(store, config, **SHARED | keys)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    assert work(store, range(1)) == [exit_codes.FAILED]
    assert len(records_of(store, "failed")) == n_failed
    says = f"2 shards failed within 60 s each on {os.uname().nodename}, and this worker has done"
    assert (says in capsys.readouterr().err) is (n_failed == 2)


def test_what_fails_slowly_is_no_bad_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(store, {"own": True}, **SHARED)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    monkeypatch.setattr(dynamic, "FAST", 0.0)
    assert work(store, range(1)) == [exit_codes.FAILED]
    assert len(records_of(store, "failed")) == 6
