"""Shards of one cause, and which commands help after all that may have happened."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from espnet3.cli.shard_groups import groups_of, next_steps, ranks_in_words
from espnet3.specs.models import ItemRange, PlannedJob, ProcessIdentity, Submission, now
from espnet3.status.finishing import Finishing
from espnet3.status.run_status import Progress, RunStatus, Shards, ShardStatus, Silence


def status(*shards: Any, **fields: Any) -> RunStatus:
    """Of shards, each given as state, cause, kind and further fields."""
    given = [
        ShardStatus(rank, state, cause, 1, rank, *more)
        for rank, (state, cause, *more) in enumerate(shards)
    ]
    return RunStatus("/r", Shards.of(given), n_items=99, **fields)


def submission(scheduler: str, options: dict[str, Any]) -> Submission:
    """A submission that asked for something."""
    me = ProcessIdentity(host="h", pid=1, started=0.0, user="u")
    return Submission(
        number=1, created=now(), submitter=me, scheduler=scheduler, n_workers=1, shards_per_job=1,
        options=options, parallel={}, worker_command=["w"], submit_command=["s"], script="",
        log_directory="/logs", ranks=ItemRange(start=0, stop=1),
        jobs=[PlannedJob(name="job", first_task=0, n_tasks=1, log="log")],
    )  # fmt: skip


def steps(seen: RunStatus) -> list[str]:
    return [step.removeprefix("espnet3 ") for step in next_steps(seen, groups_of(seen).groups)]


def test_what_differs_in_numbers_is_one_cause() -> None:
    queued = [("queued", f"job 17_{i}, JobArrayTaskLimit") for i in range(3, 19)]
    seen = status(
        ("running", "since 2026-01-02 10:31 on node1"),
        ("running", "since 2026-01-02 10:45 on node2"),
        ("failed", "forward failed at item 4: ValueError: 4 is bad", "error"),
        *queued,
        ("failed", "forward failed at item a/b: ValueError: 4 is bad", "error"),
        ("failed", "forward failed at item 4: KeyError: 4 is bad", "error"),
        ("lost", "attempt 0001-0123456789ab on node1 ended without a word, job 17_9", "silent"),
        ("queued", "job 18, Priority"),
    )
    found = [(g.state, ranks_in_words(g.ranks, 20), g.cause) for g in groups_of(seen).groups]
    assert found == [
        ("failed", "2, 19", "forward failed at item …: ValueError: 4 is bad"),
        ("failed", "20", "forward failed at item 4: KeyError: 4 is bad"),
        ("lost", "21", "attempt 0001-0123456789ab on node1 ended without a word, job 17_9"),
        ("running", "0-1", "since 2026-01-02 10:… on node…"),
        ("queued", "3-18", "job 17_…, JobArrayTaskLimit"),
        ("queued", "22", "job 18, Priority"),
    ]


def test_who_is_silent_comes_before_those_that_run_well() -> None:
    silent = Progress(silent={1: Silence(1300.0, 7)})
    seen = status(("running", "on a"), ("running", "on a"), progress=silent)
    assert [(g.ranks, g.cause) for g in groups_of(seen).groups] == [
        ([1], "on a, no result for 22 min, at its item 7"),
        ([0], "on a"),
    ]


def test_of_a_million_shards_the_first_are_put_into_words() -> None:
    asked = []

    def describe(rank: int) -> ShardStatus:
        asked.append(rank)
        return ShardStatus(rank, "queued")

    seen = RunStatus("/r", Shards(["queued"] * 1_000_000, describe))
    [group], left_out = groups_of(seen)
    assert len(asked) == len(group.ranks) == 1_000_000 - left_out < 100_000


def test_what_is_merged_needs_no_file() -> None:
    assert steps(status(("done", ""), merges=True)) == ["collect /r"]


LOOK = ["logs /r 0", "run-shard /r 0"]
AGAIN = "resume /r"


@pytest.mark.parametrize(
    ("shards", "expected"),
    [
        ([("done", "")], ["collect /r -o results.jsonl"]),
        ([("failed", "x", "error")], LOOK),  # the same code would raise the same
        ([("failed", "x", "cuda-memory")], LOOK),
        ([("lost", "x", "crashed")], LOOK),
        ([("lost", "x", "silent")], [LOOK[0], AGAIN]),
        ([("failed", "x", "error"), ("interrupted", "x", "preempted")], [*LOOK, AGAIN]),
        ([("interrupted", "x", "cancelled")], [AGAIN]),
        ([("interrupted", "x", "time", 3)], [AGAIN]),
        ([("interrupted", "x", "time")], [AGAIN]),  # nobody knows what was asked for
        ([("interrupted", "x", "memory")], [AGAIN]),
        (
            [("interrupted", "x", "memory", 0, None, None, 4_100_000_000)],
            [f"{AGAIN} --set memory=6500MB"],
        ),
        ([("interrupted", "x", "time", 0, "a", 1790.2)], [f"{AGAIN} --set walltime=1:00:00"]),
        ([("pending", "x", "not-submitted")], [AGAIN]),
        ([("failed", "x", "error"), ("running", "x")], LOOK),
        ([("running", "x")], []),
    ],
)
def test_what_to_type_next(shards: list[Any], expected: list[str]) -> None:
    assert steps(status(*shards)) == expected


def test_more_time_is_not_asked_for_where_a_killed_worker_left_results() -> None:
    shard = ("interrupted", "x", "time", 0, "a", 1790.2)
    assert steps(status(shard, progress=Progress(done=3, of_shards={0: 3}))) == [AGAIN]


TIME, MEMORY = ("interrupted", "x", "time"), ("lost", "x", "memory")


@pytest.mark.parametrize(
    ("scheduler", "options", "shards", "more"),
    [
        ("slurm", {"walltime": "02:00:00"}, [TIME], "walltime=4:00:00"),
        ("lsf", {"walltime": "00:40"}, [TIME], "walltime=1:20:00"),
        ("slurm", {"walltime": "02:00:00"}, [(*TIME, 3)], ""),
        ("slurm", {"memory": "4GB"}, [MEMORY], "memory=6GB"),
        ("slurm", {"memory": "4GB"}, [MEMORY, (*MEMORY, 0, "a", 9.0, 5 * 10**9)], "memory=7500MB"),
        ("slurm", {"job_mem": "4G", "memory": "2GB"}, [MEMORY], "job_mem=6199M"),
        ("local", {"memory": "4GB", "walltime": "01:00:00"}, [TIME, MEMORY], ""),
        (
            "sge",
            {"memory": "16GB", "walltime": "36:00:00"},
            [TIME, MEMORY],
            "memory=24GB --set walltime=72:00:00",
        ),
    ],
)
def test_what_to_ask_for_is_said_in_figures(
    scheduler: str, options: dict[str, Any], shards: list[Any], more: str
) -> None:
    seen = status(*shards, submissions={1: submission(scheduler, options)})
    again = f"{AGAIN} --set {more}" if more else AGAIN
    assert [step for step in steps(seen) if step.startswith(AGAIN)] == [again]


def test_what_to_type_where_items_failed_or_more_is_known() -> None:
    done = status(("done", ""), failed={0: 2})
    keep = "collect /r -o results.jsonl --errors keep"
    assert steps(done) == [keep, f"{AGAIN} --items failed"]
    assert steps(replace(done, failed={}, skipped={0: 2})) == [keep, f"{AGAIN} --items skipped"]
    assert steps(replace(done, failed={0: None})) == [f"{AGAIN} --repair"]
    for over in ({"finishing": Finishing("done", "done: …")}, {"merges": True, "merged": "/out"}):
        assert steps(replace(done, **over)) == [f"{AGAIN} --items failed"]
        assert steps(replace(done, failed={}, **over)) == []
        assert steps(replace(done, failed={0: None}, **over)) == [f"{AGAIN} --repair"]
    mended = status(("failed", "x", "error"), changed_sources=["a.py"])
    assert steps(mended) == [*LOOK, f"{AGAIN} --code current"]
