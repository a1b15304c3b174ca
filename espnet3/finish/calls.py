"""What users call: a finisher behind a run that is there, or its work here and now."""

from __future__ import annotations

import asyncio
import os
from functools import partial

from espnet3.collect.output import output_exists
from espnet3.config.current import chosen_policy
from espnet3.config.finish import Finish
from espnet3.errors import RunDirectoryError
from espnet3.finish.finisher import Waits
from espnet3.finish.finisher import finish as work
from espnet3.run_dir.processes import busy_with
from espnet3.run_dir.trust import Trust
from espnet3.specs.finishing import Finished, QueuedFinisher
from espnet3.status.observation import Observation, observe
from espnet3.storage.permissions import require_usable_umask
from espnet3.submit.behind import queue_behind_all
from espnet3.submit.code import run_as_submitted
from espnet3.submit.finishers import finisher_here, results_of
from espnet3.submit.overrides import Groups
from espnet3.submit.resumption import open_believed, record_found_jobs
from espnet3.submit.run_groups import groups_of, last_config


async def queue(
    run_dir: str | os.PathLike[str], trust: Trust | None = None
) -> QueuedFinisher | Finished:
    """Queue a finisher behind a run that is there already.

    It does what `finish` of the run's parallel config says, or the defaults. Where every shard is
    done there is nothing to wait for, so that is done here.

    Args:
        run_dir: the run directory.
        trust: whose run directories are believed, as in the parallel config.

    Returns:
        The finisher; the run's end where every shard is done, and no finisher is to come.

    Raises:
        RunDirectoryError: it is not a run directory, or nothing of it was submitted.
        ConfigError: no job can wait for others here.
        SubmissionRefused, SchedulerUnavailable: as `espnet3.submit.submit`.
        EspnetError: as `finish_now`, where every shard is done.

    Example:
        >>> await queue("/shared/decode")  # doctest: +SKIP
    """
    seen, groups = await _ready(run_dir, trust)
    if not seen.status.done:
        return await queue_behind_all(seen, groups)
    if seen.ending is not None and not seen.ending.is_over and seen.status.live:
        to_come = seen.ending.finishers[-1].queued
        return to_come or await queue_behind_all(seen, groups)
    end = await asyncio.to_thread(_end_that_stands, seen, groups)
    return end or await _finish_here(seen, groups) or await queue_behind_all(seen, groups)


def _end_that_stands(seen: Observation, groups: Groups) -> Finished | None:
    """The end of a run of which the results are where they are wanted; None for others."""
    ending, last = seen.ending, seen.last
    if ending is None or ending.end is None or last is None:
        return None
    wanted = results_of(seen.directory.root, seen.run, groups.config.finish or Finish())
    newest = ending.end.created >= last.created  # or results may have been computed since
    exists = output_exists if seen.run.writers is None else os.path.isdir
    there = ending.end.results == wanted and exists(wanted)
    return ending.end if ending.is_over and newest and there else None


async def finish_now(
    run_dir: str | os.PathLike[str], trust: Trust | None = None
) -> Finished | None:
    """Do the work of a finisher in this process, once nothing of the run is alive.

    Where shards are submitted again it follows them to their end.

    Args:
        run_dir: the run directory.
        trust: as for `queue`.

    Returns:
        The run's end; None where another finisher will see to it.

    Raises:
        EspnetError: as `queue`, and where the storage fails.
    """
    return await _finish_here(*await _ready(run_dir, trust))


async def _finish_here(seen: Observation, groups: Groups) -> Finished | None:
    number = seen.next_number - 1
    finisher = await finisher_here(seen.directory, seen.run, groups.config, groups.make, number)
    with busy_with(finisher.job.name):
        return await work(seen.directory, seen.run, finisher, Waits(live=None))


async def _ready(
    run_dir: str | os.PathLike[str], trust: Trust | None
) -> tuple[Observation, Groups]:
    require_usable_umask()
    opened = partial(open_believed, run_dir, chosen_policy(trust))
    return await observe(opened, _with_groups)


def _with_groups(seen: Observation) -> tuple[Observation, Groups]:
    if not seen.submissions:
        raise RunDirectoryError(
            seen.directory.root, "was never submitted; `espnet3 resume` does that"
        )
    record_found_jobs(seen)
    config = last_config(seen)
    config = config.model_copy(update={"finish": config.finish or Finish()})
    return seen, groups_of(config, run_as_submitted(seen.directory, seen.run, seen.last))
