"""What is queued behind submissions: a finisher, and perhaps waves up front."""

from __future__ import annotations

import asyncio
import math
from functools import partial

from espnet3.config.finish import Finish
from espnet3.config.model import ParallelConfig
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import last_wave, next_end
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.finishing import QueuedFinisher
from espnet3.specs.models import QueuedAhead, RunSpec
from espnet3.status.observation import Observation
from espnet3.submit.asked_memory import as_option, memory_of, memory_option
from espnet3.submit.finishers import (
    MORE_MEMORY,
    MORE_TIME,
    at_most,
    jobs_alive,
    most_memory,
    most_seconds,
    queue_finisher,
    results_of,
)
from espnet3.submit.overrides import Groups
from espnet3.submit.skipping import skipped_before, with_skips
from espnet3.submit.submission import Submitted, submit_planned


async def queue_after_resume(
    seen: Observation,
    groups: Groups,
    submitted: Submitted | None,
    code: int | None = None,
) -> str | None:
    """Queue the finisher of a run that was resumed, where its config wants one.

    Args:
        seen: what was seen of the run.
        groups: its shards by their options.
        submitted: what was submitted; None where nothing was, and where a finisher is queued only
            if none is to come: whoever submitted died before that, or it did.
        code: number of the record of the source files.

    Returns:
        The file that a finisher collects to; None where none is to come.

    Raises:
        EspnetError: as `queue_finisher`.
    """
    known = seen.status.finishing
    is_missing = known is None or known.state == "gone"
    if submitted is not None:
        return await queue_behind(seen.directory, seen.run, groups, submitted, code)
    finish = groups.config.finish
    if finish is None or not seen.submissions or not (is_missing or (known and known.live)):
        return None
    if is_missing:
        await queue_behind_all(seen, groups)
    return results_of(seen.directory.root, seen.run, finish)


async def queue_behind_all(seen: Observation, groups: Groups) -> QueuedFinisher:
    """Queue a finisher behind whatever of a run is queued or running, after a submission at least.

    Raises:
        EspnetError: as `queue_finisher`.
    """
    return await queue_finisher(
        seen.directory,
        seen.run,
        groups.config,
        groups.make,
        submission=seen.next_number - 1,
        waits_for=jobs_alive(seen),
    )


async def queue_behind(
    directory: RunDirectory,
    run: RunSpec,
    groups: Groups,
    submitted: Submitted,
    code: int | None = None,
) -> str | None:
    """Queue a finisher behind what was submitted, where the config wants one.

    Where it says `up_front`, all waves are queued as well, each between two finishers.

    Returns:
        The file that it collects to; None where the config wants none.

    Raises:
        EspnetError: as `queue_finisher`; the run's own jobs are submitted all the same.
    """
    finish = groups.config.finish
    if finish is None or submitted.number is None:
        return None
    results = results_of(directory.root, run, finish)
    newest, ids = max([submitted.number, *submitted.further]), submitted.job_ids
    queue = partial(queue_finisher, directory, run, groups.config, groups.make)
    if not finish.up_front:
        await queue(submission=newest, waits_for=ids)
        return results
    end = await asyncio.to_thread(next_end, directory)
    before = await asyncio.to_thread(last_wave, directory)
    known = (await asyncio.to_thread(directory.submissions)).known
    skips = skipped_before(known, submitted.ranks)
    for step in range(1, finish.waves + 1):
        wave = before + step
        queued = await queue(submission=newest, waits_for=ids, up_front=True, wave=wave)
        ahead = QueuedAhead(wave=wave, end=end, waits_for=[queued.job_id or ""])
        config = stepped(groups.config, step)
        next_ones = Groups(config, run.world_size, groups.make(config), groups.make)
        planned = with_skips(await next_ones.planned(submitted.ranks), skips)
        ids = []
        async for part in submit_planned(
            directory, run, planned, newest + 1, of_all=groups.config, code=code, ahead=ahead
        ):
            ids, newest = [*ids, *part.job_ids], part.number or newest
    await queue(submission=newest, waits_for=ids, up_front=True)
    return results


def stepped(config: ParallelConfig, steps: int) -> ParallelConfig:
    """The config of a wave that is queued up front, which asks for more with each step.

    Example:
        >>> options = {"memory": "4GB", "walltime": "01:00:00"}
        >>> config = ParallelConfig(env="slurm", options=options, finish={"max_memory": "8GB"})
        >>> stepped(config, 1).options, stepped(config, 2).options["memory"]
        ({'memory': '6GB', 'walltime': '2:00:00'}, '8GB')
        >>> stepped(config.model_copy(update={"options": {"job_mem": "4G"}}), 1).options
        {'job_mem': '6144M'}
    """
    finish, options = config.finish or Finish(), dict(config.options)
    option, size = memory_option(config.env, options), memory_of(config.env, options)
    if option is not None and size is not None:
        wanted = math.ceil(size * MORE_MEMORY**steps)
        options[option] = as_option(option, max(size, at_most(wanted, most_memory(finish))))
    seconds = get_scheduler(config.env).walltime_seconds(options.get("walltime"))
    if seconds is not None:
        long = at_most(seconds * MORE_TIME**steps, most_seconds(finish, config.env))
        options["walltime"] = hours_minutes_seconds(max(seconds, long))
    return config.model_copy(update={"options": options})
