"""One task: the environment once, then each of its shards that has no receipt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.receipt_history import next_generations
from espnet3.run_dir.salvage import list_results
from espnet3.specs import layout
from espnet3.specs.layout import ResultFile
from espnet3.specs.models import RunSpec
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from espnet3.worker.attempt import Attempt, SchedulerTask, log_failure
from espnet3.worker.computing import NO_LIMITS, Limits, Work
from espnet3.worker.early_end import EarlyEnd
from espnet3.worker.environment import build_environment
from espnet3.worker.removal_watch import RemovalWatch
from espnet3.worker.shard import compute_shard
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.terms import HEARTBEAT
from espnet3.worker.usage import Meter

log = logging.getLogger("espnet3.worker")


def run_task(
    directory: RunDirectory,
    run: RunSpec,
    ranks: list[int],
    submission_number: int,
    place: SchedulerTask,
    *,
    may_have_predecessors: bool,
    limits: Limits = NO_LIMITS,
    early_end: EarlyEnd | None = None,
    heartbeat: float = HEARTBEAT,
    asks_gpus: bool = True,
) -> int:
    """Compute the shards of one task.

    Args:
        directory: the run directory.
        run: its run.json.
        ranks: the shards, in order; those with a receipt are passed over.
        submission_number: of the submission that the task belongs to; 0 in the foreground.
        place: the task and its job.
        may_have_predecessors: whether earlier attempts may have left results to go on from.
        limits: what the submission says of recorded errors.
        early_end: ends the submission where nothing can succeed; None where somebody watches it.
        heartbeat: seconds within which it ends once the run was removed.
        asks_gpus: whether GPUs are asked how busy they are.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.
    """
    todo = _todo(directory.store, ranks, look=may_have_predecessors)
    if not todo:
        log.info("nothing to do: all shards of this task have receipts")
        return exit_codes.DONE
    spare, meter = Spare(), Meter(asks_gpus=asks_gpus)

    def attempt(rank: int) -> Attempt:
        return Attempt(directory, run, rank, submission_number, place, todo[rank], spare, meter)

    with Signals() as signals, RemovalWatch(directory, run.run_id, heartbeat), meter:
        try:
            runner, env = build_environment(run, signals, meter, next(iter(todo)))
            again = may_have_predecessors or any(n > 1 for n in todo.values())
            earlier = list_results(directory.store) if again else {}
            forward = runner.forward
            work = Work(directory, run, forward, env, signals, place, limits, early_end, runner)
            return _compute_all(work, todo, attempt, earlier)
        except Interrupted as signal:
            for rank in todo:
                attempt(rank).record("interrupted", cause=f"signal {signal}, before it started")
            return exit_codes.INTERRUPTED
        except Exception as raised:  # noqa: BLE001 (a shortage of memory, say)
            why = log_failure(raised)
            for rank in todo:
                attempt(rank).record("failed", **why)
            if early_end is not None:
                early_end.look()
            return exit_codes.FAILED
        finally:
            spare.give_back()


def _todo(store: Store, ranks: list[int], *, look: bool) -> dict[int, int]:
    """As `next_generations`; other hosts may have changed the folders a moment ago."""
    for folder in (layout.RECEIPTS, layout.RESULTS) if look else ():
        store.refresh(folder)
    return next_generations(store, ranks, look=look)


def _compute_all(
    work: Work,
    todo: dict[int, int],
    attempt: Callable[[int], Attempt],
    earlier: Mapping[int, Iterable[ResultFile]],
) -> int:
    """Compute shards one after the other; those that are not begun yet stay in `todo`.

    Args:
        work: what they share.
        todo: rank -> generation of the receipt that the shard gets.
        attempt: makes an attempt at a shard.
        earlier: the result files of earlier attempts, by rank.

    Returns:
        An exit code.
    """
    code, early_end = exit_codes.DONE, work.early_end
    while todo:
        work.signals.check()
        if early_end is not None and early_end.is_cancelled():
            break
        rank = next(iter(todo))
        current = attempt(rank)
        del todo[rank]
        if work.directory.store.exists(layout.receipt(rank, current.generation)):
            continue  # finished elsewhere while this task was busy
        if not compute_shard(work, current, earlier.get(rank, [])):
            code = exit_codes.FAILED
            if early_end is not None and early_end.look():
                break
    return code
