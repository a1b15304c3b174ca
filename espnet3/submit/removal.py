"""Removing a run: only what is one's own, and nothing that lives."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from espnet3.config.current import chosen_policy
from espnet3.errors import EspnetError, RunDirectoryError, SchedulerUnavailable
from espnet3.run_dir import removal
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import ON_THIS_HOST, KnownFinisher
from espnet3.run_dir.processes import is_alive
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.written import clear_output, output_that_links_to
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, WorkerState
from espnet3.status.observation import Observation, observe
from espnet3.submit.cancellation import cancel as cancel_jobs
from espnet3.submit.cancellation import open_believed, own_jobs
from espnet3.text import counted, one_line, plural

_PAUSES = 0.2, 5.0  # seconds between two looks at what was cancelled, at first and at most
_BEATS = 2  # heartbeats without a sign, after which a worker elsewhere counts as gone


@dataclass(frozen=True, slots=True)
class Removed:
    """What was removed.

    Attributes:
        run_dir: the run directory, absolute.
        files: how many files and links.
        cancelled: ids of the jobs that were asked to stop first.
    """

    run_dir: str
    files: int
    cancelled: list[str]


async def remove(
    run_dir: str | os.PathLike[str],
    *,
    cancel: bool = False,
    merged: bool = False,
    everything: bool = False,
    force: bool = False,
    trust: Trust | None = None,
) -> Removed:
    """Remove a run's directory, unless something of the run is alive.

    What links lead to stays, and so do logs that the options sent elsewhere. Of an output folder go
    the links `split.N` that would lead nowhere, and the manifest; merged files stay. Called again
    after it was cut short, it goes on.

    Args:
        run_dir: the run directory.
        cancel: cancel the run first, and wait until nothing of it is alive.
        merged: also remove what merged files may name: what the shards have written, where links in
            the output folder lead to it.
        everything: also remove that, and files that are not the run's own.
        force: also where the scheduler does not answer, so that nobody knows what is alive.
        trust: whose run directories are believed, as in the parallel config; what `set_parallel`
            set where unset.

    Raises:
        RunDirectoryError: it is no run directory, holds what is not the run's or what an output
            folder leads to, or something of it is alive; nothing was removed.
        Untrusted: others could have written it.
        SchedulerUnavailable: the scheduler does not answer; nothing was removed.
        OutputError: something in the output folder cannot be removed; nothing else was.
        StoreError: something cannot be removed; what is left is no run any more.

    Example:
        >>> await remove("/shared/decode", cancel=True)  # doctest: +SKIP
        Removed(run_dir='/shared/decode', files=131, cancelled=['4711'])
    """
    policy = chosen_policy(trust)
    directory = await asyncio.to_thread(_open, run_dir, policy)
    await asyncio.to_thread(_contents, directory, merged=merged, everything=everything)
    cancelled: list[str] = []
    run_id: str | None = None
    if not await asyncio.to_thread(removal.is_half_removed, directory):
        found = await _look(directory, policy, force=force)
        if found.alive and cancel:
            cancelled = await cancel_jobs(directory.root, trust=policy)
            found = await _until_nothing_lives(directory, policy, force=force)
        if found.alive:
            raise RunDirectoryError(directory.root, f"{found.alive}; cancel it first (--cancel)")
        run_id = found.run.run_id
        await asyncio.to_thread(removal.begin, directory, run_id, found.submissions)
        await asyncio.to_thread(clear_output, directory)
    clear = partial(removal.clear, directory, run_id, everything=everything)
    return Removed(directory.root, await asyncio.to_thread(clear), cancelled)


async def require_removable(
    run_dir: str | os.PathLike[str],
    *,
    cancel: bool = False,
    merged: bool = False,
    everything: bool = False,
    force: bool = False,
    trust: Trust | None = None,
) -> str:
    """Check all that `remove` would, and remove nothing.

    Returns:
        What is to be removed, in words.

    Raises:
        EspnetError: as `remove` does.
    """
    policy = chosen_policy(trust)
    directory = await asyncio.to_thread(_open, run_dir, policy)
    seen, output = await asyncio.to_thread(
        _contents, directory, merged=merged, everything=everything
    )
    words = f"{directory.root}: {counted(seen.files, 'file')}"
    if seen.foreign:
        words += f", with {', '.join(map(one_line, seen.foreign[:5]))} of your own"
    if output is not None:
        words += f", with what the shards of {one_line(output)} have written"
    if await asyncio.to_thread(removal.is_half_removed, directory):
        return f"{words}, what is left of a half-removed run"
    found = await _look(directory, policy, force=force)
    if found.alive and not cancel:
        raise RunDirectoryError(directory.root, f"{found.alive}; cancel it first (--cancel)")
    return f"{words}, {found.done} of {counted(found.run.world_size, 'shard')} done" + (
        f"; {found.alive}, which is cancelled first" if found.alive else ""
    )


def _open(run_dir: str | os.PathLike[str], policy: Trust | None) -> RunDirectory:
    directory = RunDirectory.open(run_dir, policy)
    removal.require_real(directory)
    directory = open_believed(run_dir, policy)
    if not removal.is_half_removed(directory):
        directory.run()
    else:
        directory.require_trusted([layout.REMOVAL])
    return directory


def _contents(
    directory: RunDirectory, *, merged: bool, everything: bool
) -> tuple[removal.Contents, str | None]:
    """What is there, and the output folder whose shards lie there.

    Raises:
        RunDirectoryError: something of it is not the run's, or is another's to name, and nothing
            says that it goes as well.
    """
    seen, output = removal.look(directory), output_that_links_to(directory)
    if not everything:
        removal.require_own(directory, seen, None if merged else output)
    return seen, output


class _Look(NamedTuple):
    """What is seen of a run that is to be removed; `alive` is "" where nothing is."""

    run: RunSpec
    submissions: int
    done: int
    alive: str


async def _until_nothing_lives(
    directory: RunDirectory, policy: Trust | None, *, force: bool
) -> _Look:
    pause, longest = _PAUSES
    while (found := await _look(directory, policy, force=force)).alive:
        await asyncio.sleep(pause)
        pause = min(2 * pause, longest)
    return found


async def _look(directory: RunDirectory, policy: Trust | None, *, force: bool) -> _Look:
    """What of a run is alive, in words.

    Raises:
        SchedulerUnavailable: nobody knows, and `force` does not say that this is no matter.
    """
    seen: Observation = await observe(partial(open_believed, directory.root, policy))
    _, own, finishers, original = await asyncio.to_thread(own_jobs, seen)
    alive = ""
    if original is None and seen.status.live and seen.status.scheduler_problem is None:
        alive = _in_words(seen)
    alive = alive or await _live_finishers(finishers, force=force)
    alive = alive or await _live_jobs(own, force=force)
    alive = alive or await _live_workers(seen, force=force)
    return _Look(seen.run, len(seen.submissions), len(seen.receipts), alive)


def _in_words(seen: Observation) -> str:
    counts = seen.status.counts()
    shards = [f"{counted(counts[s], 'shard')} {s}" for s in ("running", "queued") if s in counts]
    if shards:
        return f"is alive: {', '.join(shards)}"
    return f"is alive: {seen.status.finishing.words if seen.status.finishing else 'a job'}"


async def _live_jobs(own: list[KnownSubmission], *, force: bool) -> str:
    """Jobs that have not ended, also where their shards are done."""
    for known in own:
        if await _has_live_task(known, force=force):
            found = known.job_ids().values()
            ids = f"{plural(len(found), 'job')} {', '.join(found) or 'that nobody recorded'}"
            return f"is alive: {ids} of submission {known.submission.number:04d}"
    return ""


async def _live_finishers(finishers: list[KnownFinisher], *, force: bool) -> str:
    for known in finishers:
        finisher, words = known.finisher, f"is alive: finisher {known.finisher.number}"
        if known.refused:
            continue
        if finisher.scheduler in ON_THIS_HOST:
            if known.queued is not None and is_alive(known.queued.recorded_by):
                return words
            continue
        if await _has_live_task(known.as_submission(), force=force):
            return words
    return ""


async def _has_live_task(known: KnownSubmission, *, force: bool) -> bool:
    try:
        states = await get_scheduler(known.submission.scheduler).query([known])
    except SchedulerUnavailable:
        if force:
            return False
        raise
    return any(state.state != "ended" for state in states.values())


async def _live_workers(seen: Observation, *, force: bool) -> str:
    """Workers that joined, of which no scheduler knows; a sign from elsewhere is waited for."""
    states = await asyncio.to_thread(_joined, seen.directory)
    elsewhere: dict[str, WorkerState] = {}
    for state in states:
        alive = is_alive(state.process)
        if alive:
            return f"is alive: a worker that joined, process {state.process.pid} of this host"
        if alive is None:
            elsewhere[state.worker] = state
    if force or not elsewhere:
        return ""
    last = seen.last
    heartbeat = float(last.parallel.get("heartbeat") or 30.0) if last else 30.0  # type: ignore[arg-type]
    end = asyncio.get_running_loop().time() + _BEATS * heartbeat
    while asyncio.get_running_loop().time() < end:
        await asyncio.sleep(min(1.0, heartbeat))
        for state in await asyncio.to_thread(_joined, seen.directory):
            before = elsewhere.get(state.worker)
            if before is not None and state.beat != before.beat:
                return f"is alive: a worker that joined on {state.process.host}"
    return ""


def _joined(directory: RunDirectory) -> list[WorkerState]:
    """The last signs of workers that joined and have not said that they end."""
    found = []
    for name in filter(None, map(layout.parse_worker, directory.store.names(layout.WORKERS))):
        try:
            state = directory.read(WorkerState, layout.worker(name))
        except EspnetError:  # a hint only
            continue
        if state.task is None and not state.ended:
            found.append(state)
    return found
