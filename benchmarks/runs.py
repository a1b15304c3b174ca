"""Run directories made quickly: planned but not started, or finished without any worker."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from benchmarks.work import NoEnv, Trivial
from espnet3.config.model import parse_parallel
from espnet3.parallel import BaseRunner
from espnet3.specs import layout
from espnet3.specs.items import plan_items, shard_bounds
from espnet3.specs.models import AttemptRecord, RunSpec, decode, encode, now
from espnet3.storage.opening import open_store
from espnet3.submit.launcher_choice import make_launcher
from espnet3.submit.plan import plan_run
from espnet3.submit.submission import PlannedSubmission, make_submission
from espnet3.submit.submitter import this_submitter
from tests.support.finished_runs import finish_shard


def write_run(
    run_dir: Path,
    n_items: int,
    n_shards: int,
    *,
    runner: type[BaseRunner] = Trivial,
    output_dir: Path | None = None,
    **parallel: Any,
) -> RunSpec:
    """Write the plan of a run and the intent of its first submission, as `submit` does."""
    config = parse_parallel({"env": "local", "n_shards": n_shards, **parallel})
    surroundings = this_submitter(sys.executable)
    made = runner(NoEnv({}), output_dir=output_dir)
    plan = plan_run(made, plan_items(range(n_items)), config, surroundings)
    store = open_store(run_dir)
    store.prepare([*layout.FOLDERS, layout.CLAIMS, layout.WORKERS])
    for spec in plan.shards(store.locate(layout.RUN)):
        Path(run_dir, layout.shard(spec.rank)).write_bytes(encode(spec))
    Path(run_dir, layout.RUN).write_bytes(encode(plan.run))
    ranks = plan_items(range(plan.run.world_size))
    portion = PlannedSubmission(config, make_launcher(config, runner), ranks, 1001)
    intent = make_submission(store, plan.run, portion, number=1)
    Path(run_dir, layout.submission(1)).write_bytes(encode(intent))
    return plan.run


def worker_command(run_dir: Path, task: int) -> list[str]:
    """The command of a worker process for one task of the first submission."""
    command = ["-P", "-m", "espnet3.worker", str(run_dir), "0001", "--task", str(task)]
    return [sys.executable, *command]


def forget_results(run_dir: Path) -> None:
    """Remove everything that workers wrote."""
    shutil.rmtree(Path(run_dir, layout.WRITTEN), ignore_errors=True)
    for folder in (layout.RESULTS, layout.ATTEMPTS, layout.RECEIPTS):
        for file in Path(run_dir, folder).iterdir():
            file.unlink()


def finish_shards(run_dir: Path, ranks: Iterable[int]) -> None:
    """Write results and receipts as workers would, for shards of a `Trivial` run."""
    run = decode(RunSpec, Path(run_dir, layout.RUN).read_bytes(), "run.json")
    for rank in ranks:
        first, last = shard_bounds(rank, run.world_size, run.n_inputs)
        lines = b"".join(
            orjson.dumps({"item": i, "result": i}, option=orjson.OPT_APPEND_NEWLINE)
            for i in range(first, last)
        )
        finish_shard(run_dir, run, rank, [lines])


def fail_shard(run_dir: Path, rank: int) -> None:
    """Record an attempt of the first submission that failed, as a worker would."""
    failed = AttemptRecord(
        event="failed",
        rank=rank,
        attempt=layout.new_attempt(1),
        task=rank,
        job_id=None,
        host="here",
        pid=1,
        time=now(),
        cause="the benchmark says so",
    )
    path = layout.attempt_record(rank, failed.attempt, "failed")
    Path(run_dir, path).write_bytes(encode(failed))
