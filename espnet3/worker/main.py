"""The worker's command line: which task am I, and what are its shards."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from espnet3._streams import print_by_line
from espnet3.errors import EspnetError, FileMissing, UsageError
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.worker_command import parse_arguments
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import Scheduler
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, Submission
from espnet3.storage.retry import is_shortage
from espnet3.text import counted, visible
from espnet3.worker import exit_codes
from espnet3.worker.attempt import SchedulerTask, describe
from espnet3.worker.code import enter_code
from espnet3.worker.computing import limits_of
from espnet3.worker.early_end import EarlyEnd
from espnet3.worker.process_restore import restart
from espnet3.worker.task import run_task
from espnet3.worker.terms import Terms


def main(argv: list[str], environ: Mapping[str, str] = os.environ) -> int:
    """Compute the shards of one task.

    Args:
        argv: `RUN NUMBER` and options. Without `--task` the index comes from the scheduler's
            variable, and `--first-task` is the task of index 0.
        environ: the environment of the job.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.
    """
    log_to_stderr()
    print_by_line()
    try:
        options = parse_arguments(argv)
        directory = RunDirectory.open(options.run, options.trust)
        store, path = directory.store, layout.submission(options.number)
        # A node may see later than its scheduler what the submitter wrote.
        for file in (layout.RUN, path):
            store.await_file(file)
        run = directory.trusted_run([path])
        restart(run)
        if options.run_id is not None:
            directory.require_run(options.run_id)
        submission = directory.read(Submission, path)
        run = enter_code(directory, run, submission)
        scheduler = get_scheduler(submission.scheduler)
        task = options.task
        if task is None:
            task = options.first_task + (scheduler.array_index(environ) or 0)
        ranks = _ranks_of(directory, submission, task)
        if not ranks:
            return exit_codes.DONE
        early_end = EarlyEnd.of(directory, run, submission, scheduler)
        if early_end is not None and early_end.is_cancelled():
            return exit_codes.DONE
        place = SchedulerTask(task, scheduler.job_id(environ))
        if submission.schedule == "dynamic":
            return _claim(directory, run, submission, scheduler, place, early_end, ranks)
        _await_specs(directory, ranks)
        return run_task(
            directory,
            run,
            ranks,
            submission.number,
            place,
            may_have_predecessors=submission.number > 1 or scheduler.was_requeued(environ),
            limits=limits_of(submission, run),
            early_end=early_end,
            heartbeat=Terms.of(submission).heartbeat,
            asks_gpus=submission.usage,
        )
    except EspnetError as error:
        print(f"espnet3.worker: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        print(f"espnet3.worker: {scrubbed(describe(error))}", file=sys.stderr)
        return exit_codes.FAILED


def _await_specs(directory: RunDirectory, ranks: list[int]) -> None:
    """Wait for specs that a node may see late, and refuse those that others control."""
    for rank in ranks:
        with contextlib.suppress(FileMissing):  # which is that shard's trouble alone
            directory.store.await_file(layout.shard(rank))
    directory.require_files(map(layout.shard, ranks))


def _ranks_of(directory: RunDirectory, submission: Submission, task: int) -> list[int]:
    """The shards that a task may compute; none where it has nothing to do after all.

    Raises:
        UsageError: there is no such task.
    """
    ranks = submission.ranks_of(task)
    if not ranks:
        path = directory.store.locate(layout.submission(submission.number))
        raise UsageError(f"task {task}: {path} has {counted(submission.n_tasks, 'task')}")
    if submission.ahead is None:
        return ranks
    from espnet3.worker.waves import wanted_ranks  # others need not load it

    wanted = wanted_ranks(directory, submission.ahead)
    return [rank for rank in ranks if wanted is None or rank in wanted]


def _claim(
    directory: RunDirectory,
    run: RunSpec,
    submission: Submission,
    scheduler: Scheduler,
    place: SchedulerTask,
    early_end: EarlyEnd | None,
    ranks: list[int],
) -> int:
    """Be one of the workers that claim their shards."""
    # What others need not load.
    from espnet3.worker.dynamic import Bounds, run_claimed, time_limit

    return run_claimed(
        directory,
        run,
        ranks,
        submission.number,
        place,
        terms=Terms.of(submission),
        n_places=submission.n_tasks,
        limits=limits_of(submission, run),
        bounds=Bounds(until=time_limit(submission, scheduler)),
        early_end=early_end,
        asks_gpus=submission.usage,
    ).code


def prepare_streams() -> None:
    """Flush the standard streams, and give up those that user code has closed.

    Python would end with exit code 120 where it cannot flush them, whatever became of the shards.
    """
    for name in ("stdout", "stderr"):
        try:
            getattr(sys, name).flush()
        except (AttributeError, OSError, ValueError):
            setattr(sys, name, None)


def log_to_stderr() -> None:
    """Send espnet3's own log, and no other, to standard error: the job's log file."""
    handler = _JobLog()
    handler.setFormatter(_Zoned("%(asctime)s %(name)s: %(message)s"))
    logger = logging.getLogger("espnet3")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _Zoned(logging.Formatter):
    """Says in which zone a time is: records have theirs in UTC, and nodes may be anywhere."""

    def formatTime(  # noqa: N802 (logging's name)
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        zone = time.strftime("%z", time.localtime(record.created))
        return f"{super().formatTime(record, datefmt)}{zone}"


class _JobLog(logging.StreamHandler[TextIO]):
    """Shows no secrets, and nothing that a terminal obeys.

    Lines that cannot be written (`forward` closed stderr) cost nothing.
    """

    def format(self, record: logging.LogRecord) -> str:
        return visible(scrubbed(super().format(record)))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        return
