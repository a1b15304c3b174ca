"""Which runs there are in some folders, and what their directories tell of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import warnings
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, NamedTuple

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finding import find_run_dirs
from espnet3.run_dir.finishers import read_ending
from espnet3.specs import layout
from espnet3.specs.models import RunSpec
from espnet3.status.observation import observe
from espnet3.status.run_status import RunStatus
from espnet3.status.watching import status
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather
from espnet3.storage.object import ObjectStore
from espnet3.storage.opening import open_store
from espnet3.text import visible

USUAL = (".", "espnet3_runs")
DEPTH = 4  # as `exp/asr/decode/test_clean`, in which `espnet3_run` lies
# Files whose sizes are added up: of all runs together, and of each at most and at least.
MOST_FILES_IN_ALL, MOST_FILES, FEWEST_FILES = 1_000_000, 20_000, 100
_READERS = 8  # threads, and questions to schedulers, at the same time

ListedState = Literal[
    "done", "running", "queued", "failed", "lost", "interrupted", "unfinished", "incomplete",
    "stopped", "cancelled", "new", "half removed", "unreadable",
]  # fmt: skip
_DEAD: tuple[ListedState, ...] = ("failed", "lost", "interrupted")  # what needs somebody first


class NotAllLookedAt(UserWarning):
    """Some folders in a folder were not looked at, since there are too many."""


class ListedRun(NamedTuple):
    """A run as a list shows it.

    Attributes:
        run_dir: absolute path or URL.
        state: `running` and `queued` only where the scheduler was asked, and, where nothing is
            alive, `failed`, `lost` and `interrupted` after the shard that needs somebody first.
            `unfinished` shards may be alive or not; `incomplete` and `stopped` is the end of a run
            that finishes itself; `new` was not submitted yet.
        problem: why that is not known, or what is wrong; else "".
        created: when the run was planned; None where that cannot be read.
        shards_done, n_shards: how many have a receipt, of how many.
        items_done, n_items: of the shards that are done, and of all; `see_runs` counts those of
            unfinished shards, too, as it reads these anyway.
        size: bytes of its files; of some of them where `size_is_whole` is False: 20,000, and fewer
            where there are more than 50 runs, so that many large ones are listed in seconds.
    """

    run_dir: str
    state: ListedState
    problem: str = ""
    created: datetime | None = None
    shards_done: int = 0
    n_shards: int = 0
    items_done: int = 0
    n_items: int = 0
    size: int = 0
    size_is_whole: bool = True


class SeenRun(NamedTuple):
    """A run as a list shows it, and its status; None where that cannot be told."""

    listed: ListedRun
    status: RunStatus | None = None


async def list_runs(
    folders: Iterable[str | os.PathLike[str]] | None = None,
    *,
    ask: bool = False,
    depth: int = DEPTH,
) -> list[ListedRun]:
    """The runs in some folders, the newest first.

    A `NotAllLookedAt` warns of a folder in which there are too many folders.

    Args:
        folders: run directories, or folders that some are in; paths or URLs. `.` and
            `espnet3_runs` where unset, as far as they are there.
        depth: how many folders down runs are looked for; of a URL, one. A run that is
            called `espnet3_run`, as of runners with writers, may lie one further.
        ask: ask the schedulers what is queued and running; one question for each run that is not
            over.

    Raises:
        RunDirectoryError: one of the folders is not there.
        StoreError: one of them cannot be listed.

    Example:
        >>> [run.state for run in await list_runs(["/shared/runs"])]  # doctest: +SKIP
        ['unfinished', 'done']
    """
    found = await asyncio.to_thread(_look_at_all, folders, depth)
    if ask:
        limit = asyncio.Semaphore(_READERS)
        found = await asyncio.gather(*(_asked(run, limit) for run in found))
    return found


async def see_runs(run_dirs: Sequence[str]) -> list[SeenRun]:
    """The same with the status of each: `problem` says how many items failed or were skipped.

    Raises:
        EspnetError: as `list_runs`.
    """
    limit = asyncio.Semaphore(_READERS)
    found = await asyncio.to_thread(_look_at_all, run_dirs, DEPTH)
    seen = await asyncio.gather(*(_seen(run, limit, status) for run in found))
    return [
        SeenRun(listed._replace(items_done=max(listed.items_done, known.progress.done)), known)
        if known is not None
        else SeenRun(listed)
        for listed, known in seen
    ]


def _look_at_all(folders: Iterable[str | os.PathLike[str]] | None, depth: int) -> list[ListedRun]:
    given = (folder for folder in USUAL if os.path.isdir(folder)) if folders is None else folders
    places: dict[str, str] = {}
    for folder in given:
        found = find_run_dirs(store := open_store(folder), depth)
        if not found.is_whole:
            words = (
                f"{visible(store.root)}: there is too much in it, so that not all of its folders "
                "were looked into; name one of them, or a smaller depth"
            )
            warnings.warn(words, NotAllLookedAt, stacklevel=2)
        for root in found.run_dirs:
            place = root if "://" in root else os.path.realpath(root)
            if place not in places or root == place:  # of a link and what it leads to, the latter
                places[place] = root
    shared = MOST_FILES_IN_ALL // max(1, len(places))
    most = min(MOST_FILES, max(FEWEST_FILES, shared))
    looked = gather(lambda root: _look_at(root, most), [*places.values()], _READERS)
    return sorted(filter(None, looked), key=_newest_first)


def _newest_first(run: ListedRun) -> tuple[float, str]:
    return -run.created.timestamp() if run.created else 0.0, run.run_dir


def _look_at(root: str, most: int) -> ListedRun | None:
    """A line for a run; None where it is none after all."""
    try:
        store = open_store(root)
        names = {*store.names("")}
        if layout.RUN not in names:
            return _listed(store, "half removed", most) if layout.REMOVAL in names else None
        return _look_into(RunDirectory(store), names, most)
    except EspnetError as error:
        return ListedRun(root, "unreadable", str(error).removeprefix(f"{root}: "))


def _look_into(directory: RunDirectory, names: set[str], most: int) -> ListedRun:
    run = directory.read(RunSpec, layout.RUN)
    receipts = directory.receipts(run.world_size)
    n_done = len(receipts.done)
    items = run.n_items if n_done == run.world_size else sum(map(run.n_items_of, receipts.done))
    state: ListedState = "done"
    if n_done < run.world_size:
        state = _state(directory, names)
    seen = _listed(directory.store, state, most)
    return seen._replace(
        created=run.created, shards_done=n_done, n_shards=run.world_size, items_done=items,
        n_items=run.n_items,
    )  # fmt: skip


def _state(directory: RunDirectory, names: set[str]) -> ListedState:
    submissions = directory.store.names(layout.SUBMISSIONS)
    numbers = map(layout.submission_number, submissions)
    newest = max((number for number in numbers if number is not None), default=None)
    if newest is None:
        return "new"
    if any(name.startswith("finished") and layout.parse_end(name) for name in names):
        ending = read_ending(directory)
        if ending is not None and ending.end is not None and ending.is_over:
            return "incomplete" if ending.end.outcome == "incomplete" else "stopped"
    cancelled = layout.cancellation(newest).rpartition("/")[2]
    return "cancelled" if cancelled in submissions else "unfinished"


def _listed(store: Store, state: ListedState, most: int) -> ListedRun:
    size, is_whole = _size_of(store, most)
    return ListedRun(store.root, state, size=size, size_is_whole=is_whole)


def _size_of(store: Store, most: int) -> tuple[int, bool]:
    """Bytes of so many files at most, and whether these are all; no link is followed."""
    if isinstance(store, ObjectStore):
        return sum(size for _, size in store.sizes()), True
    size, n_files, folders = 0, 0, [store.root]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    folders.append(each.path)
                    continue
                n_files += 1
                if n_files > most:
                    return size, False
                with contextlib.suppress(OSError):
                    size += each.stat(follow_symlinks=False).st_size
    return size, True


async def _asked(run: ListedRun, limit: asyncio.Semaphore) -> ListedRun:
    if run.state in ("done", "new"):
        return run
    return (await _seen(run, limit, _status_of_shards)).listed


async def _status_of_shards(run_dir: str) -> RunStatus:
    return (await observe(partial(RunDirectory.open, run_dir))).status


async def _seen(
    run: ListedRun, limit: asyncio.Semaphore, look: Callable[[str], Awaitable[RunStatus]]
) -> SeenRun:
    if run.state in ("half removed", "unreadable"):
        return SeenRun(run)
    async with limit:
        try:
            seen = await look(run.run_dir)
        except EspnetError as error:
            return SeenRun(run._replace(problem=str(error).removeprefix(f"{run.run_dir}: ")))
    if seen.scheduler_problem is not None:
        return SeenRun(run._replace(problem=seen.scheduler_problem), seen)
    state = _state_seen(run.state, seen)
    return SeenRun(run._replace(state=state, problem=", ".join(seen.items_in_words())), seen)


def _state_seen(state: ListedState, seen: RunStatus) -> ListedState:
    """What the scheduler's answer makes of the state that the directory tells."""
    counts = seen.counts()
    if state != "done" and seen.live:
        return "running" if "running" in counts else "queued"
    return next((each for each in _DEAD if state == "unfinished" and each in counts), state)
