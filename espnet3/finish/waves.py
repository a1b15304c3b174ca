"""Writing down what a finisher decided, and submitting it."""

from __future__ import annotations

import asyncio
from typing import Any

from espnet3.config.model import ParallelConfig
from espnet3.finish.rules import Again, NextWave
from espnet3.run_dir.processes import this_process
from espnet3.schedulers.walltimes import hours_minutes_seconds
from espnet3.specs.finishing import BadNode, Finisher, Portion, Wave
from espnet3.specs.items import plan_items
from espnet3.specs.models import Submission, now
from espnet3.status.observation import Observation
from espnet3.submit.asked_memory import as_option, memory_option
from espnet3.submit.code import run_as_submitted
from espnet3.submit.finishers import queue_finisher
from espnet3.submit.overrides import set_for_all
from espnet3.submit.resumption import record_found_jobs
from espnet3.submit.run_groups import config_like, errors_from_of, groups_of, last_config
from espnet3.submit.skipping import skipped_before, with_skips
from espnet3.submit.submission import Submitted, submit_planned


def wave_of(
    decided: NextWave, seen: Observation, finisher: Finisher, number: int, items_done: int
) -> Wave:
    """A decision as it is written down.

    Args:
        decided: the decision.
        seen: what it was made of.
        finisher: who decided.
        number: the wave's.
        items_done: of shards that are not done.
    """
    submissions = seen.by_number()
    portions = []
    for how, ranks in decided.portions.items():
        by_last: dict[int, list[int]] = {}  # number of the last submission -> its shards
        for rank in ranks:
            by_last.setdefault(seen.status.shards[rank].submission or 0, []).append(rank)
        portions += [
            Portion(
                ranks=plan_items(own),
                like=number_of_last,
                options=_changes(how, submissions.get(number_of_last)),
                cause=how.cause,
                counted=how.counted,
                retries_errors=how.retries_errors,
            )
            for number_of_last, own in by_last.items()
        ]
    return Wave(
        number=number,
        finisher=finisher.number,
        created=now(),
        by=this_process(),
        submission=seen.next_number,
        portions=portions,
        bad_nodes=[BadNode(node=n, evidence=why) for n, why in decided.bad_nodes.items()],
        n_done=len(seen.receipts),
        items_done=items_done,
    )


def _changes(how: Again, last: Submission | None) -> dict[str, Any]:
    """The options that a portion changes."""
    changes: dict[str, Any] = {}
    option = None if last is None else memory_option(last.scheduler, last.options)
    if how.memory is not None and option is not None:
        changes[option] = as_option(option, how.memory)
    if how.walltime is not None:
        changes["walltime"] = hours_minutes_seconds(how.walltime)
    return changes


def to_submit(
    seen: Observation, wave: Wave, *, again: bool = False
) -> list[tuple[Portion, list[int]]]:
    """What of a wave is neither done nor in a submission since it was decided.

    Args:
        seen: what is known of the run.
        wave: the wave.
        again: also what is in submissions of which no job was accepted.
    """
    there = set(seen.receipts)
    for known in seen.submissions:
        without_jobs = known.recorded is not None and not known.recorded.jobs
        if known.submission.number >= wave.submission and not (again and without_jobs):
            there.update(rank for rank in known.submission.ranks if isinstance(rank, int))
    found = []
    for portion in wave.portions:
        ranks = [rank for rank in portion.shards() if rank not in there]
        if ranks:
            found.append((portion, ranks))
    return found


async def submit_wave(seen: Observation, wave: Wave, *, again: bool = False) -> Submitted:
    """Submit what of a wave is in no submission yet.

    Args:
        seen: what is known of the run; its jobs that nobody had recorded are recorded.
        wave: what was decided, which is on disk.
        again: as for `to_submit`.

    Raises:
        Overtaken: somebody else submits shards of the run at this moment.
        SubmissionRefused, SchedulerUnavailable, StoreError: as `espnet3.submit.submit`.
    """
    await asyncio.to_thread(record_found_jobs, seen)
    run = await asyncio.to_thread(run_as_submitted, seen.directory, seen.run, seen.last)
    number = seen.next_number
    submitted = Submitted.nothing(seen.directory.root)
    for portion, ranks in to_submit(seen, wave, again=again):
        config = _config_of(seen, portion, [bad.node for bad in wave.bad_nodes])
        groups = await asyncio.to_thread(groups_of, config, run)
        planned = await groups.planned(ranks)
        parts = submit_planned(
            seen.directory,
            seen.run,
            with_skips(planned, skipped_before(seen.submissions, ranks)),
            number,
            errors_from_of(seen, ranks),
            groups.config,
            None if seen.last is None else seen.last.code,
        )
        async for part in parts:
            submitted = submitted.and_then(part)
        number += len(planned)
    return submitted


def _config_of(seen: Observation, portion: Portion, without: list[str]) -> ParallelConfig:
    """The parallel config of a portion."""
    config = config_like(seen, seen.by_number().get(portion.like, seen.run))
    if without:
        nodes = sorted({*config.exclude_nodes, *without})
        config = config.model_copy(update={"exclude_nodes": nodes})
    return set_for_all(config, portion.options) if portion.options else config


async def queue_after(seen: Observation, waits_for: list[str], submission: int) -> None:
    """Queue the next finisher.

    Args:
        seen: what is known of the run.
        waits_for: ids of the jobs that it waits for.
        submission: number of the newest submission.

    Raises:
        EspnetError: as `queue_finisher`.
    """
    run = await asyncio.to_thread(run_as_submitted, seen.directory, seen.run, seen.last)
    groups = await asyncio.to_thread(groups_of, last_config(seen), run)
    await queue_finisher(
        seen.directory,
        seen.run,
        groups.config,
        groups.make,
        submission=submission,
        waits_for=waits_for,
    )
