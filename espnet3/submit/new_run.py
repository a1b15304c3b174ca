"""Submitting a run: check, plan, write, launch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from espnet3.config.current import get_current
from espnet3.config.model import ParallelConfig, as_parallel_config
from espnet3.errors import FileTaken, RunDirectoryError, Untrusted
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.removal import require_not_removed
from espnet3.run_dir.written import own_output, require_own_output
from espnet3.schedulers import get_scheduler
from espnet3.specs import layout
from espnet3.specs.items import plan_items
from espnet3.specs.models import RunSpec, Submission, encode, now
from espnet3.status.observation import observe
from espnet3.storage.local import LocalStore
from espnet3.storage.permissions import removed_on_error
from espnet3.submit.behind import queue_behind
from espnet3.submit.choice import choose_ranks
from espnet3.submit.code import KnownCode, WhichCode, number_of_code, require_choice
from espnet3.submit.finishers import check_finish, render_finisher, with_absolute_output
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.launcher_choice import make_launcher, with_usual_width
from espnet3.submit.overrides import Groups
from espnet3.submit.plan import Plan, Runner, check_runner, plan_run, require_same_plan
from espnet3.submit.preflight import preflight
from espnet3.submit.process_record import has_other_words, warn_of_others
from espnet3.submit.resumption import record_found_jobs, submit_missing
from espnet3.submit.submission import Overtaken, Submitted, make_submission, submit_planned
from espnet3.submit.submitter import this_submitter
from espnet3.submit.writers import require_resume, usual_run_dir
from espnet3.user_code.command_line import reader_of_argv
from espnet3.user_code.sources import loaded_sources


async def submit(
    runner: Runner,
    items: Iterable[Any],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_shards: int | None = None,
    parallel: ParallelConfig | Mapping[str, Any] | None = None,
    code: WhichCode | None = None,
) -> Submitted:
    """Submit a run and return at once; nothing of this process is needed afterwards.

    The same call again continues the run: only shards without a receipt and without a live attempt
    are submitted.

    Args:
        runner: an instance of a BaseRunner subclass.
        items: an iterable of JSON values, for example `range(1000)`.
        run_dir: a path on storage that all nodes share, or an fsspec URL; the runner's where unset,
            else a new folder below its `async_result_dir` (`espnet3_runs/`), or of a runner with
            writers `espnet3_run` in its output folder.
        n_shards: how many shards; the config's `n_shards`, else its `n_workers`, where unset.
        parallel: the parallel config; what `set_parallel` set where unset, else `env: local`.
        code: for a run that goes on though source files were edited, as for `resume`.

    Returns:
        Where the run is and what was submitted.

    Raises:
        UsageError: the call or the config is wrong; nothing was written.
        PlanMismatch: `run_dir` holds a run of another plan.
        OutputError: a runner with writers has no output folder, or another one's.
        CodeChanged: source files differ from those that it was submitted with.
        SchedulerUnavailable: the scheduler does not answer.
        SubmissionRefused: it refused a job; the plan is written and can be resumed.

    Example:
        >>> submitted = await submit(runner, range(1000), run_dir="/shared/decode", n_shards=40)
        ... # doctest: +SKIP
    """
    require_choice(code)
    ready = await _prepare(runner, items, run_dir, n_shards, parallel)
    directory, plan, groups, existing = ready
    submitted, sources = Submitted.nothing(directory.root), None
    if existing is None:
        planned = await groups.planned(range(plan.run.world_size))
        if groups.config.preflight:
            build = groups.config.preflight == "build"
            sources = await preflight(plan.run, runner.provider, build=build)
        if await asyncio.to_thread(_write_plan, directory, plan):
            new = KnownCode(None, True, keeps=groups.config.snapshot)
            number = await number_of_code(directory, plan.run, 1, new, sources)
            with contextlib.suppress(Overtaken):
                how: dict[str, Any] = {"of_all": groups.config, "code": number}
                async for part in submit_planned(directory, plan.run, planned, 1, **how):
                    submitted = submitted.and_then(part)
                results = await queue_behind(directory, plan.run, groups, submitted, number)
                return replace(submitted, results=results)
    await asyncio.to_thread(_own_output, directory, existing or plan.run)
    seen = await observe(directory, record_found_jobs)
    return await submit_missing(seen, groups, submitted=submitted, code=code, sources=sources)


async def dry_run(
    runner: Runner,
    items: Iterable[Any],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    n_shards: int | None = None,
    parallel: ParallelConfig | Mapping[str, Any] | None = None,
) -> list[Rendered]:
    """Render the jobs that `submit` would launch, and launch and write nothing.

    Returns:
        Script and submit command of each job, a finisher's last; none where nothing is missing.

    Raises:
        EspnetError: as `submit` does.
    """
    ready = await _prepare(runner, items, run_dir, n_shards, parallel)
    directory, plan, groups = ready[:3]
    store = directory.store
    run, first = ready.existing or plan.run, 1
    chosen: Sequence[int] = range(run.world_size)
    if ready.existing is not None:
        seen = await observe(directory)
        first = len(seen.submissions) + 1
        chosen, _ = choose_ranks(seen.status)
        if not chosen:
            return []
    shown: list[Rendered] = []
    made: list[Submission] = []
    planned = await groups.planned(chosen)
    for number, each in enumerate(planned, first):
        submission = make_submission(store, run, each, number=number)
        shown += [await each.launcher.render(submission, job) for job in submission.jobs]
        made.append(submission)
    jobs = [job for submission in made for job in submission.jobs]
    behind = made[-1].model_copy(update={"jobs": jobs})
    finisher = await render_finisher(directory, run, groups.config, groups.make, behind)
    return shown if finisher is None else [*shown, finisher]


class _Ready(NamedTuple):
    """A checked call."""

    directory: RunDirectory
    plan: Plan
    groups: Groups
    existing: RunSpec | None


async def _prepare(
    runner: Runner, items: Any, run_dir: Any, n_shards: int | None, parallel: Any
) -> _Ready:
    """Check everything about a call that can be checked without writing."""
    current = get_current() if parallel is None else parallel
    config = ParallelConfig() if current is None else as_parallel_config(current)
    check_runner(runner)
    ready = await asyncio.to_thread(_check, runner, items, run_dir, n_shards, config)
    if ready.existing is not None:  # here, where the user's call is seen
        there, here, reader = ready.existing.process, ready.plan.run.process, None
        if has_other_words(there, here):
            reader = await asyncio.to_thread(_reader_of_argv, runner, ready.plan.run)
        warn_of_others(there, here, reader)
    return ready


def _reader_of_argv(runner: Runner, run: RunSpec) -> str | None:
    """A file of the user's that reads the command line where workers may run it."""
    hooks = {*dir(type(runner)), *dir(type(runner.provider))}
    return reader_of_argv([source.path for source in loaded_sources(run)], hooks)


def _check(
    runner: Runner, items: Any, run_dir: Any, n_shards: int | None, config: ParallelConfig
) -> _Ready:
    def make(changed: ParallelConfig) -> Launcher:
        return make_launcher(changed, type(runner))

    config = with_absolute_output(with_usual_width(config))
    launcher = make(config)
    passed_on = get_scheduler(config.env).passes_environment
    submitter = this_submitter(launcher.python, config.environment_variables, passed_on=passed_on)
    planned = plan_items(items)
    chosen = run_dir if run_dir is not None else runner.run_dir
    if chosen is None:
        chosen = usual_run_dir(runner) or _new_run_dir(os.fspath(runner.async_result_dir))
    directory = RunDirectory.open(chosen, config.trust)
    existing = _existing(directory)
    if existing is not None and n_shards is None and config.n_shards is None:
        n_shards = existing.world_size
    plan = plan_run(runner, planned, config, submitter, n_shards=n_shards)
    require_resume(runner, directory.root, existing)
    if existing is not None:
        require_same_plan(directory.root, existing, plan.run)
        directory.trust_at_most(existing.parallel)
        config = config.model_copy(update={"trust": directory.trust})
    directory.require_submissions()
    directory.require_scripts(plan.run)
    check_finish(directory.root, config, make, merges=plan.run.writers is not None)
    if plan.run.writers is not None:
        require_own_output(directory, existing or plan.run)
    return _Ready(directory, plan, Groups(config, plan.run.world_size, launcher, make), existing)


def _new_run_dir(folder: str) -> str:
    return os.path.join(folder, f"{now():%Y%m%d-%H%M%S}-{secrets.token_hex(3)}")


def _existing(directory: RunDirectory) -> RunSpec | None:
    """The run that the directory holds already, or None."""
    store = directory.store
    if isinstance(store, LocalStore) and os.path.exists(store.root):
        if not os.path.isdir(store.root):
            raise RunDirectoryError(store.root, "is a file; choose another run_dir")
        try:
            names = os.listdir(store.root)
        except OSError as error:
            raise RunDirectoryError(
                store.root, f"cannot be read ({error.strerror}); choose another run_dir"
            ) from None
        # Names that begin with a dot are unfinished files of ours, or the file system's own.
        foreign = {n for n in names if not n.startswith(".") and not layout.is_own(n)}
        if foreign and not store.exists(layout.RUN):
            raise RunDirectoryError(
                store.root,
                f"is not empty and is not a run directory (it holds {min(foreign)!r}); choose "
                "another run_dir",
            )
    found = directory.run_if_there()
    if found is None:
        require_not_removed(directory)  # or what is left of receipts would count
    return found


def _require_believable(directory: RunDirectory) -> None:
    """Refuse storage that shows what is made there as a worker would not believe it.

    Some mounts show all files as one user's. Where the directory was looked at before, it was not
    there yet.
    """
    try:
        directory.require_trusted()
    except Untrusted as error:
        raise RunDirectoryError(
            directory.root,
            "reports other owners or permissions than files were made with, so no job would trust "
            f"them ({error.path} {error.problem.partition(';')[0]}); choose another run_dir",
        ) from None


def _own_output(directory: RunDirectory, run: RunSpec) -> None:
    if run.writers is not None:
        own_output(directory, run)


def _write_plan(directory: RunDirectory, plan: Plan) -> bool:
    """Write all specs, then run.json; False where another submitter wrote the same run first."""
    store = directory.store
    run_file = store.locate(layout.RUN)
    files = ((layout.shard_name(spec.rank), encode(spec)) for spec in plan.shards(run_file))
    folders = map(store.locate, layout.FOLDERS) if isinstance(store, LocalStore) else ()
    try:
        with removed_on_error(folders):
            store.prepare(layout.FOLDERS)
            _require_believable(directory)
            store.create_many(layout.SHARDS, files)
    except FileTaken as error:
        raise RunDirectoryError(
            store.root,
            f"holds shards of another plan that was cut short ({error.file}); remove the folder "
            "or choose another run_dir",
        ) from None
    try:
        directory.publish(plan.run)
    except FileTaken:
        there = read_persisted(store, RunSpec, layout.RUN, store.await_file)
        require_same_plan(store.root, there, plan.run)
        return False
    _own_output(directory, plan.run)
    return True
