"""Queueing a finisher: its intent on disk, its job behind the run's jobs, the record of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from espnet3.config.finish import Finish
from espnet3.config.model import ParallelConfig
from espnet3.errors import (
    ConfigError,
    FileTaken,
    StoreError,
    SubmissionRefused,
)
from espnet3.redaction import shown_value
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import ON_THIS_HOST, next_end, next_number, queued_record
from espnet3.run_dir.output_names import require_form, require_outside
from espnet3.run_dir.processes import busy_with, this_process
from espnet3.run_dir.worker_command import FINISHER, WorkerArguments, command
from espnet3.run_dir.written import output_folder
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher, QueuedFinisher
from espnet3.specs.models import PlannedJob, RunSpec, Submission, now
from espnet3.status.observation import Observation
from espnet3.status.run_status import LIVE
from espnet3.storage.paths import absolute, as_entered
from espnet3.submit.asked_memory import bytes_of
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.overrides import MakeLauncher
from espnet3.submit.submission import log_directory_of, why_cut_short
from espnet3.text import counted

# What the finisher's job asks for, where `finish.options` does not say otherwise.
_SMALL = {"cores": 1, "memory": "1GB", "walltime": "00:15:00"}
# Options of the run that are about its size; the others (queue, account, prologue, …) are kept, and
# HTCondor's `disk`, without which it makes no job at all.
_SIZES = frozenset({
    "processes", "job_cpu", "job_mem", "mem", "ncpus", "resource_spec", "n_gpus",
})  # fmt: skip
_OF_SIZE = re.compile(
    r"gpu|gres|mem|cpu|task|nodes|time|exclusive|array|select|slots|-pe\b|requeue", re.IGNORECASE
)
# Directives of resources, whose values say what they are; of a queue `gpu` the name says it.
_RESOURCES = frozenset({"-l", "-R", "-C", "--constraint"})
# Letters of a scheduler's own, which mean something else to others.
_SHORT = {"slurm": "cnGNtB", "lsf": "nMWx"}
T = TypeVar("T", int, float)
MORE_MEMORY, MORE_TIME = 1.5, 2  # times what was asked for before


def finisher_config(config: ParallelConfig) -> ParallelConfig:
    """The parallel config of a finisher's own job: that of the run, but small.

    Example:
        >>> given = {"queue": "day", "memory": "64GB", "job_extra_directives": ["--gres=gpu:1"]}
        >>> config = ParallelConfig(env="slurm", options=given, finish=True)
        >>> finisher_config(config).options["memory"]
        '1GB'
    """
    finish = config.finish or Finish()
    options: dict[str, Any] = dict(config.options)
    if config.env not in ON_THIS_HOST:
        options = {name: value for name, value in options.items() if name not in _SIZES}
        directives = options.get("job_extra_directives")
        if isinstance(directives, list):
            kept = [line for line in directives if not _is_of_size(str(line), config.env)]
            options["job_extra_directives"] = kept
        options |= _SMALL
        options |= finish.options
    elif finish.options:
        raise ConfigError("parallel.finish.options", f"env: {config.env} has none for a finisher")
    return config.model_copy(update={"options": options, "n_workers": 1, "overrides": []})


def _is_of_size(directive: str, env: str) -> bool:
    """Whether a directive asks for something in size, as `--gres=gpu:1` does."""
    words = directive.split(None, 1)
    name = words[0].partition("=")[0] if words else ""
    if name in _RESOURCES or (name, env) == ("-p", "oar"):  # properties of nodes, there
        return _OF_SIZE.search(directive) is not None
    letters = _SHORT.get(env)
    if letters and re.fullmatch(rf"-[{letters}][\d:,-]*", name):
        return True
    return _OF_SIZE.search(name) is not None


def check_finish(
    root: str, config: ParallelConfig, make: MakeLauncher, *, merges: bool = False
) -> None:
    """Find what is wrong with `finish` before anything is written.

    Args:
        root: the run directory.
        config: the run's parallel config.
        make: makes launchers.
        merges: whether the runner's own `merge` makes the output.

    Raises:
        ConfigError: an option is wrong, or no job can wait for others here.
        UsageError: the results cannot have the name that is wanted.
    """
    finish = config.finish
    if finish is None:
        return
    make(finisher_config(config)).require_finishers()
    if finish.up_front and config.env in ON_THIS_HOST:
        problem = f"is for batch systems; leave it out with env: {config.env}"
        raise ConfigError("parallel.finish.up_front", problem)
    if finish.up_front and config.overrides:
        problem = "needs the same options for all shards; leave parallel.overrides out"
        raise ConfigError("parallel.finish.up_front", problem)
    if finish.collect is not None:
        if merges:
            problem = (
                "cannot be set: the merge of the runner says where its output is; leave it out"
            )
            raise ConfigError("parallel.finish.collect", problem)
        require_outside(root, finish.collect)
        require_form(finish.collect, pickled=config.results == "pickle")
    most_memory(finish)
    most_seconds(finish, config.env)


def at_most(wanted: T, bound: T | None) -> T:
    """A number up to a bound, if there is one.

    Example:
        >>> at_most(6, 4), at_most(6, None)
        (4, 6)
    """
    return wanted if bound is None else min(wanted, bound)


def most_memory(finish: Finish) -> int | None:
    """`max_memory` in bytes.

    Raises:
        ConfigError: it is no size.

    Example:
        >>> most_memory(Finish(max_memory="64GB"))
        64000000000
    """
    if finish.max_memory is None:
        return None
    try:
        found = bytes_of(finish.max_memory)
    except ValueError:
        found = 0
    if found <= 0:
        problem = f"must be a size such as 64GB, got {shown_value(finish.max_memory)}"
        raise ConfigError("parallel.finish.max_memory", problem)
    return found


def most_seconds(finish: Finish, env: str) -> float | None:
    """`max_walltime` in seconds, as the scheduler reads it.

    Raises:
        ConfigError: it is no time.
    """
    if finish.max_walltime is None:
        return None
    found = get_scheduler(env).walltime_seconds(finish.max_walltime)
    if not found:
        problem = f"must be a time such as 24:00:00, got {shown_value(finish.max_walltime)}"
        raise ConfigError("parallel.finish.max_walltime", problem)
    return found


async def queue_finisher(
    directory: RunDirectory,
    run: RunSpec,
    config: ParallelConfig,
    make: MakeLauncher,
    *,
    submission: int,
    waits_for: Sequence[str],
    up_front: bool = False,
    wave: int = 0,
) -> QueuedFinisher:
    """Queue a finisher behind jobs.

    Args:
        directory: the run directory.
        run: its run.json.
        config: the run's parallel config.
        make: makes launchers.
        submission: number of the newest submission.
        waits_for: ids of the jobs that it waits for.
        up_front: whether it submits nothing.
        wave: which wave waits for it then; 0 for none.

    Raises:
        SubmissionRefused: the scheduler refused it.
        SchedulerUnavailable: it gave no answer, and the job is not in the queue.
        ConfigError: no job can wait for others here.
        StoreError: intent or record cannot be written.
    """
    launcher = make(finisher_config(config))
    launcher.require_finishers()
    with contextlib.ExitStack() as busy:

        async def planned(number: int) -> Finisher:
            end = await asyncio.to_thread(next_end, directory)
            finisher = _finisher(
                directory, run, config, launcher, number, end, submission, waits_for
            )
            finisher = finisher.model_copy(update={"up_front": up_front, "wave": wave})
            rendered = await launcher.render_finisher(finisher)
            busy.enter_context(busy_with(finisher.job.name))
            update = {"submit_command": rendered.command, "script": rendered.script}
            return finisher.model_copy(update=update)

        return await _launch(directory, launcher, await _publish_next(directory, planned))


async def render_finisher(
    directory: RunDirectory,
    run: RunSpec,
    config: ParallelConfig,
    make: MakeLauncher,
    behind: Submission,
) -> Rendered | None:
    """Render the job that `queue_finisher` would queue, and queue and write nothing.

    Args:
        directory: the run directory, which need not exist.
        run: its run.json, or what that would be.
        config: the run's parallel config.
        make: makes launchers.
        behind: the newest submission that would be made.

    Returns:
        None where the config wants none.

    Raises:
        EspnetError: as `queue_finisher`.
    """
    if config.finish is None:
        return None
    launcher = make(finisher_config(config))
    waits_for = [f"<id of {job.name}>" for job in behind.jobs]
    number = next_number(await asyncio.to_thread(directory.store.names, layout.FINISHERS))
    end = await asyncio.to_thread(next_end, directory)
    finisher = _finisher(directory, run, config, launcher, number, end, behind.number, waits_for)
    rendered = await launcher.render_finisher(finisher)
    waves = config.finish.waves if config.finish.up_front else 0
    queued = f"{counted(waves, 'wave')} {'is' if waves == 1 else 'are'} queued behind it"
    more = f"; {queued}, with a finisher behind each" if waves else ""
    return rendered._replace(when=f"starts when these jobs have ended, in whatever way{more}")


async def finisher_here(
    directory: RunDirectory,
    run: RunSpec,
    config: ParallelConfig,
    make: MakeLauncher,
    submission: int,
) -> Finisher:
    """Record that this process acts as a finisher.

    Raises:
        StoreError: it cannot be written.
    """
    launcher = make(finisher_config(config))

    async def planned(number: int) -> Finisher:
        end = await asyncio.to_thread(next_end, directory)
        return _finisher(directory, run, config, launcher, number, end, submission, ())

    return await _publish_next(directory, planned)


async def _publish_next(
    directory: RunDirectory, planned: Callable[[int], Awaitable[Finisher]]
) -> Finisher:
    """Write an intent under the next number that is free."""
    least = 1  # one that was just taken may be listed later
    while True:
        taken = await asyncio.to_thread(directory.store.names, layout.FINISHERS)
        number = max(least, next_number(taken))
        finisher = await planned(number)
        with contextlib.suppress(FileTaken):
            await asyncio.to_thread(_publish, directory, finisher)
            return finisher
        least = number + 1


def jobs_alive(seen: Observation) -> list[str]:
    """Ids of the jobs in which shards are queued or running."""
    shards = seen.status.shards
    numbers = {shards[rank].submission for rank in shards.ranks(LIVE)}
    return [
        job_id
        for known in seen.submissions
        if known.submission.number in numbers
        for job_id in known.job_ids().values()
    ]


def _publish(directory: RunDirectory, finisher: Finisher) -> None:
    directory.store.prepare([layout.FINISHERS])
    directory.publish(finisher)


async def _launch(
    directory: RunDirectory, launcher: Launcher, finisher: Finisher
) -> QueuedFinisher:
    """Start the job of a finisher; whatever ends this leaves a record of what is known."""
    try:
        job_id = await launcher.launch_finisher(finisher)
    except BaseException as error:
        with contextlib.suppress(StoreError):  # what ended it matters more
            record = queued_record(finisher.number, None, why_cut_short(error))
            directory.publish_first(record)
        if isinstance(error, SubmissionRefused):
            raise SubmissionRefused(
                error.scheduler,
                f"{error.words} (of the finisher; the run's own jobs were submitted: "
                f"`espnet3 finish {directory.root}` queues another one)",
            ) from None
        raise
    queued = queued_record(finisher.number, job_id)
    if finisher.scheduler not in ON_THIS_HOST:  # there it records itself
        await asyncio.to_thread(directory.publish_first, queued)
    return queued


def _finisher(
    directory: RunDirectory,
    run: RunSpec,
    config: ParallelConfig,
    launcher: Launcher,
    number: int,
    end: int,
    submission: int,
    waits_for: Sequence[str],
) -> Finisher:
    on_this_host = config.env in ON_THIS_HOST
    python = shlex.quote(as_entered(sys.executable)) if on_this_host else launcher.python
    prefix = f"{launcher.job_name_prefix()}-finisher"
    name = get_scheduler(config.env).unique_name(prefix, run.run_id, number, 0)
    arguments = WorkerArguments(
        directory.store.root, number, run_id=run.run_id, job=name, trust=config.trust
    )
    return Finisher(
        number=number,
        submission=submission,
        end=end,
        created=now(),
        submitter=this_process(),
        scheduler=config.env,
        options=launcher.options,
        command=command(shlex.split(python), (), FINISHER, arguments),
        submit_command=[],
        script="",
        log_directory=log_directory_of(directory.store, run, launcher),
        waits_for=[*waits_for],
        job=PlannedJob(
            name=name, first_task=0, n_tasks=1, log=f"finisher-{number:04d}.{{index}}.log"
        ),
    )


def results_of(root: str, run: RunSpec, finish: Finish) -> str:
    """The file that a finisher collects to; the folder where a runner's own `merge` does.

    Example:
        >>> results_of("/shared/decode", run, Finish())  # doctest: +SKIP
        '/shared/decode/results.jsonl'
    """
    if run.writers is not None:
        return output_folder(run)
    return finish.collect or f"{root.rstrip('/')}/{layout.COLLECTED}"


def with_absolute_output(config: ParallelConfig) -> ParallelConfig:
    """The config whose `finish.collect` means the same in every folder."""
    finish = config.finish
    if finish is None or finish.collect is None or "://" in finish.collect:
        return config
    path = absolute(os.path.expanduser(finish.collect))
    return config.model_copy(update={"finish": finish.model_copy(update={"collect": path})})
