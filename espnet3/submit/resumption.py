"""Resuming a run: submit the shards that have no receipt and no live attempt."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

from espnet3.config.current import chosen_policy
from espnet3.config.model import ParallelConfig, parse_parallel
from espnet3.errors import UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.skipped import Skips
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import stopping
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, SkippedItem
from espnet3.specs.plain import plain_json
from espnet3.status.failed_items import records_errors
from espnet3.status.observation import Observation, observe
from espnet3.status.run_status import LIVE
from espnet3.storage.permissions import require_usable_umask
from espnet3.storage.retry import PATIENCE
from espnet3.submit.behind import queue_after_resume
from espnet3.submit.choice import choose_ranks
from espnet3.submit.code import WhichCode, known_code, number_of_code, require_choice, run_for
from espnet3.submit.named_ranks import named_ranks
from espnet3.submit.overrides import Groups, set_for_all
from espnet3.submit.preflight import preflight
from espnet3.submit.run_groups import errors_from_of, groups_of, import_path_of
from espnet3.submit.skipping import FoundSkips, find_skips, skipped_before, with_skips
from espnet3.submit.submission import Overtaken, Submitted, submit_planned
from espnet3.submit.submitter import refuse_in_worker
from espnet3.submit.withdrawals import (
    WithdrawalCause,
    find_damaged,
    find_failed,
    find_failed_parts,
    withdraw,
)
from espnet3.user_code.references import find_class
from espnet3.user_code.sources import Source, loaded_sources

# What other hosts wrote a moment ago, and this one may have listed before.
_SEEN_LATE = (
    layout.SUBMISSIONS, layout.RECEIPTS, layout.ATTEMPTS, layout.FINISHERS, layout.WAVES,
)  # fmt: skip
WhichItems = Literal["missing", "failed", "skipped"]


async def resume(
    run_dir: str | os.PathLike[str],
    ranks: Iterable[int | str | os.PathLike[str]] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    repair: bool = False,
    items: WhichItems = "missing",
    patience: float = PATIENCE,
    code: WhichCode | None = None,
    trust: Trust | None = None,
    skip: Iterable[Any] = (),
    skip_failing: bool = False,
) -> Submitted:
    """Submit what is missing of a run: shards without a receipt and without a live attempt.

    Each of them goes on from the items that earlier attempts finished. With `repair`, or with
    `items`, receipts are withdrawn first, so that their shards are missing too; a later resume goes
    on with these, should this one be cut short.

    Args:
        run_dir: the run directory.
        ranks: only these shards, as ranks or paths of their spec files; all where unset.
        options: options to override, such as `{"memory": "64GB"}`, or one of the keys that may be
            changed later (`n_workers`, `max_errors`, ...; `docs/guide.md`). They hold for all that
            is submitted; the rest of the parallel config is that of the last submission.
        force: also shards that seem to be queued or running; the first finisher wins.
        repair: read all results of done shards, and compute again what its receipt belies.
        items: `failed` also computes again the items that `on_error: record` recorded, only these.
            What was skipped stays skipped, unless it is `skipped`, which computes both.
        patience: seconds for which files that do not match their receipts may still be on their
            way through a network file system, before `repair` believes them to be damaged.
        code: which to go on with where source files differ: `current`, or `submitted` (snapshots).
        trust: whose run directories are believed; what `set_parallel` set where unset.
        skip: items, by their values, for which `forward` is not called: they are recorded as
            errors of type `Skipped` (decision 0026).
        skip_failing: also skip the item that each shard's last attempt ended at.

    Returns:
        What was submitted, which of the wanted shards were left alone, and which were done and
        are computed again.

    Raises:
        RunDirectoryError: it is not a run directory.
        DamagedResult: a receipt cannot be read to find failed items, and `repair` is not set.
        Untrusted: others could have written it, and so what would be imported.
        UsageError: a rank is none of the run's, or an option is wrong.
        CodeChanged: source files differ, and `code` does not say what to go on with.
        SchedulerUnavailable: the scheduler does not answer, so that live shards cannot be told
            from dead ones (`force` goes on all the same).
        SubmissionRefused: the scheduler refused a job.

    Example:
        >>> await resume("/shared/decode", items="failed")              # doctest: +SKIP
    """
    if items not in get_args(WhichItems):
        raise UsageError(f"items: {items!r} is none of {', '.join(get_args(WhichItems))}")
    require_choice(code)
    wish = _Wish(ranks, options, force, repair, items, patience, code, [*skip], skip_failing)
    return await _resume(partial(open_believed, run_dir, chosen_policy(trust)), wish)


class _Wish(NamedTuple):
    """What a resume is asked for; see `resume`."""

    ranks: Iterable[int | str | os.PathLike[str]] | None
    options: Mapping[str, Any] | None
    force: bool
    repair: bool
    items: WhichItems
    patience: float
    code: WhichCode | None
    skip: list[Any]
    skip_failing: bool


class _Checked(NamedTuple):
    """A resume that can be done.

    Attributes:
        seen: what is known of the run.
        groups: its shards by their options.
        wanted: only these shards; all where None.
        receipts: rank -> generation of the receipt that it has, or would get.
        findings: rank -> why its receipt is to be withdrawn.
        skips: what is passed over.
    """

    seen: Observation
    groups: Groups
    wanted: list[int] | None
    receipts: dict[int, int]
    findings: dict[int, WithdrawalCause]
    skips: FoundSkips


async def _resume(open_directory: Callable[[], RunDirectory], wish: _Wish) -> Submitted:
    refuse_in_worker()
    require_usable_umask()
    with stopping() as stop:
        checked = await observe(open_directory, lambda seen: _check(seen, wish, stop))
    seen, groups, wanted, receipts, findings, skips = checked
    sources: list[Source] | None = None
    if findings:  # before anything is withdrawn
        run = await asyncio.to_thread(run_for, wish.code, seen.directory, seen.run, seen.last)
        if groups.config.preflight:
            sources = await preflight(run, build=groups.config.preflight == "build")
        seen = await observe(
            partial(_withdraw, seen, receipts, findings, wish.items), record_found_jobs
        )
    submitted = await submit_missing(
        seen, groups, wanted, force=wish.force, again=wish.items, checked=bool(findings),
        code=wish.code, sources=sources, skip=skips.items,
    )  # fmt: skip
    looked = submitted.ranks
    if wish.items == "failed":
        looked = [*range(seen.run.world_size)] if wanted is None else wanted
    stay = [] if wish.items == "skipped" else skipped_before(seen.submissions, looked)
    return replace(
        submitted,
        stay_skipped=len(stay),
        withdrawn={rank: f.cause for rank, f in findings.items()},
        skipped=skips.words,
        not_found=skips.not_found,
    )


def open_believed(run_dir: str | os.PathLike[str], policy: Trust | None) -> RunDirectory:
    """A directory whose submissions may be believed, as it is now."""
    return believed_now(RunDirectory.open(run_dir, policy))


def believed_now(directory: RunDirectory) -> RunDirectory:
    """The same directory, whose submissions may be believed, as it is now.

    Raises:
        Untrusted: others could have written what would be submitted or run.
    """
    directory.require_submissions()
    for folder in _SEEN_LATE:
        directory.store.refresh(folder)
    return directory


def _check(seen: Observation, wish: _Wish, stop: threading.Event) -> _Checked:
    """Which shards, by which options, and which of them have receipts that cannot stay."""
    directory = seen.directory
    wanted = None if wish.ranks is None else named_ranks(directory.root, seen.run, wish.ranks)
    # What helped the last time helps again; the first config may be the one that was refused.
    last = seen.last or seen.run
    config = parse_parallel(last.parallel)
    directory.trust_at_most(seen.run.parallel, last.parallel)
    config = config.model_copy(update={"trust": directory.trust})
    _require_trusted(directory, seen)
    if wish.options:
        config = set_for_all(config, _plain_options(wish.options))
    run = seen.run
    if wish.code == "submitted":
        run = run_for(wish.code, directory, run, seen.last)
    groups = groups_of(config, run)
    findings: dict[int, WithdrawalCause] = {}
    receipts = {
        rank: generation
        for rank, generation in seen.receipts.items()
        if wanted is None or rank in wanted
    }
    if wish.repair:
        findings = find_damaged(directory, seen.run, receipts, wish.patience, stop)
    if wish.items != "missing":
        skips = Skips.read(seen.submissions)
        sound = {rank: n for rank, n in receipts.items() if rank not in findings}
        findings |= find_failed(
            directory, seen.run, sound, wish.patience, stop, skips, again=wish.items
        )
        states = seen.status.shards.states
        idle = [
            rank
            for rank in (range(seen.run.world_size) if wanted is None else wanted)
            if states[rank] != "done" and (wish.force or states[rank] not in LIVE)
        ]
        shared, failed = find_failed_parts(directory, seen.run, idle, stop, skips, again=wish.items)
        findings |= failed
        receipts |= shared
    ranks = range(run.world_size) if wanted is None else wanted
    found = find_skips(seen, ranks, wish.skip, failing=wish.skip_failing, force=wish.force)
    return _Checked(record_found_jobs(seen), groups, wanted, receipts, findings, found)


def _withdraw(
    seen: Observation,
    receipts: Mapping[int, int],
    findings: Mapping[int, WithdrawalCause],
    items: WhichItems,
) -> RunDirectory:
    """The directory, once receipts of it are withdrawn."""
    errors_from = 0 if items == "missing" else seen.next_number
    withdraw(seen.directory, receipts, findings, errors_from)
    return seen.directory


async def submit_missing(
    seen: Observation,
    groups: Groups,
    wanted: list[int] | None = None,
    *,
    force: bool = False,
    again: WhichItems = "missing",
    checked: bool = False,
    submitted: Submitted | None = None,
    code: WhichCode | None = None,
    sources: list[Source] | None = None,
    skip: Sequence[SkippedItem] = (),
) -> Submitted:
    """Submit the shards of an observed run that are missing; see `resume`.

    Args:
        seen: what is known of the run, its found jobs recorded.
        groups: its shards by their options.
        wanted: only these shards; all where unset.
        force: also those that seem to be queued or running.
        again: which recorded items are computed again.
        checked: whether provider and runner were rebuilt in a clean process already.
        submitted: what the caller has submitted of the run already.
        code: what to go on with where source files differ from those of the last submission.
        sources: the user's files that a worker loads, where they are known already.
        skip: items that are passed over, besides those of earlier submissions.
    """
    directory, checked = seen.directory, checked or not groups.config.preflight
    submitted = Submitted.nothing(directory.root) if submitted is None else submitted
    of_code: int | None = None
    while True:
        chosen, left_alone = choose_ranks(seen.status, wanted, force=force)
        there = set(submitted.ranks)
        chosen = [rank for rank in chosen if rank not in there]
        if chosen:
            known = await asyncio.to_thread(
                known_code, directory, seen.last, code, snapshot=groups.config.snapshot
            )
            planned = await groups.planned(chosen)
            if not checked:
                run = await asyncio.to_thread(known.run, directory, seen.run)
                sources = await preflight(run, build=groups.config.preflight == "build")
                checked = True
            number = seen.next_number
            errors_from, skips = _recorded(seen, groups.config, chosen, number, again)
            if known.is_current and sources is None:
                sources = await asyncio.to_thread(_sources_here, seen.run)
            of_code = await number_of_code(directory, seen.run, number, known, sources)
            planned = with_skips(planned, [*skips, *skip])
            try:
                async for part in submit_planned(
                    directory, seen.run, planned, number, errors_from, groups.config, of_code
                ):
                    submitted = submitted.and_then(part)
            except Overtaken as error:
                seen = await observe(partial(_listed, directory, error.number), record_found_jobs)
                continue
        results = await queue_after_resume(seen, groups, submitted if chosen else None, of_code)
        left_alone = {rank: why for rank, why in left_alone.items() if rank not in there}
        return replace(submitted, left_alone=left_alone, results=results)


def _recorded(
    seen: Observation,
    config: ParallelConfig,
    chosen: Sequence[int],
    number: int,
    again: WhichItems,
) -> tuple[int, list[SkippedItem]]:
    """From which submission on recorded errors count, and which items are passed over as before.

    Args:
        seen: what is known of the run.
        config: of what is to be submitted.
        chosen: its shards.
        number: that of the submission.
        again: which of them it computes again.
    """
    skips = [] if again == "skipped" else skipped_before(seen.submissions, chosen)
    # What stops at an error vouches for none.
    strict = config.on_error == "stop" and records_errors(seen.run, seen.submissions)
    if strict or again != "missing":
        return number, skips
    return errors_from_of(seen, chosen), skips


def _sources_here(run: RunSpec) -> list[Source]:
    """The user's files that a worker loads, as this process has them: nothing else was asked."""
    with import_path_of(run):
        find_class(run.runner)
        find_class(run.provider.cls)
        return loaded_sources(run)


def _listed(directory: RunDirectory, number: int) -> RunDirectory:
    """The directory, once another host's submission is listed here."""
    directory.store.await_listed(layout.submission(number))
    return directory


def _require_trusted(directory: RunDirectory, seen: Observation) -> None:
    last = seen.submissions[-1:]
    directory.require_trusted(layout.submission(known.submission.number) for known in last)
    directory.require_scripts(seen.run)


def record_found_jobs(seen: Observation) -> Observation:
    """Record jobs whose submitter died before it could, so that nobody has to search again.

    Returns:
        What was seen, as it is, for `observe`.
    """
    for jobs in seen.found.values():
        seen.directory.publish_first(jobs)
    return seen


def _plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    plain = plain_json(dict(options), "options")
    return plain if isinstance(plain, dict) else {}
