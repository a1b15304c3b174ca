"""Runners that write their results themselves, in local and synchronous mode.

Each shard is written into its folder, `split.N`, which holds `done` when it is whole. A call leaves
such folders as they are, computes the others, and merges all.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from espnet3.config.model import ParallelConfig
from espnet3.errors import OutputError
from espnet3.parallel.forked import watched
from espnet3.parallel.progress_bar import progress_bar
from espnet3.parallel.shard_folder import (
    LOCK,
    PATIENCE,
    empty,
    forget,
    keep,
    kept,
    without_link,
)
from espnet3.specs.items import batched, plan_items, shard_bounds
from espnet3.storage.folder_lock import OF_ALL, held
from espnet3.text import one_line, visible
from espnet3.user_code.instances import its_own_changes
from espnet3.user_code.manifest import (
    Manifest,
    ManifestShard,
    made_from,
    output_root,
    read_manifest,
    require_same,
    shard_folders,
    write_manifest,
)
from espnet3.user_code.writers import DONE, ShardWriters, close_all, folder_name, output_dir_of
from espnet3.worker.signals import end_child

CHECKPOINT_EVERY = 30.0  # seconds, where no parallel config says it


class Shard(NamedTuple):
    """A shard to be computed, and what `forward` is called with."""

    shard_id: int
    items: Sequence[Any]

    def __repr__(self) -> str:
        """For messages, in which it stands for an item."""
        ends = [one_line(repr(self.items[at]), 60) for at in (0, -1)]
        return f"{' … '.join(ends[: len(self.items)])} of shard {self.shard_id}"


def write_shards(
    runner: Any, calls: Sequence[Any], parallel: ParallelConfig | None, *, show_progress: bool
) -> Any:
    """Write what is missing of a runner's shards, and merge all.

    Args:
        runner: an instance of a BaseRunner subclass that overrides a hook.
        calls: what `forward` is called with.
        parallel: the parallel config; None in local mode.
        show_progress: whether to show a progress bar.

    Returns:
        What `merge` returned.

    Raises:
        OutputError: there is no `output_dir`, or it cannot be used; nothing was changed.
        ItemsError: an item is not JSON, as the manifest is.
        Exception: what `forward` or a hook raised.
    """
    root = output_root(output_dir_of(runner), runner.shard_subdir)
    shards = _planned(calls, parallel)
    manifest = _manifest(runner, shards)
    folders = [root / folder_name(shard.shard_id) for shard in shards]
    _require_usable(runner, root, manifest, folders)  # also before anything is made for the lock
    with held(root / OF_ALL):
        if not _require_usable(runner, root, manifest, folders):
            if not runner.resume:
                _remove_all(root, len(shards))
            write_manifest(root, manifest)
        is_done: Callable[[Path], bool] = type(runner).is_shard_done
        pending = [s for s, folder in zip(shards, folders, strict=True) if not is_done(folder)]
        if pending:
            _compute(runner, pending, parallel, show_progress)
        for folder in folders:
            if not is_done(folder):
                raise OutputError(
                    os.fspath(folder), "was written, but is_shard_done says that it is not whole"
                )
        return runner.merge(folders)


def _planned(calls: Sequence[Any], parallel: ParallelConfig | None) -> list[Shard]:
    """As in asynchronous mode; in order, and none of them empty."""
    wanted = 1 if parallel is None else parallel.n_shards or parallel.n_workers
    count = min(wanted, len(calls))
    bounds = (shard_bounds(rank, count, len(calls)) for rank in range(count))
    return [Shard(rank, calls[first:last]) for rank, (first, last) in enumerate(bounds)]


def _manifest(runner: Any, shards: Sequence[Shard]) -> Manifest:
    planned = (
        ManifestShard.model_construct(
            shard_id=shard.shard_id, items=[*batched(plan_items(shard.items), None)]
        )
        for shard in shards
    )
    return Manifest.model_construct(
        output_dir=os.fspath(runner.output_dir),
        shard_subdir=runner.shard_subdir,
        shards=[*planned],
        fingerprint=made_from(runner),
    )


def _require_usable(runner: Any, root: Path, manifest: Manifest, folders: list[Path]) -> bool:
    """Whether the folder holds shards of this plan, with which the call goes on.

    Raises:
        OutputError: it holds others, which the call must not touch.
    """
    there = read_manifest(root)
    if there is not None and (runner.resume or there.run is not None):
        require_same(root, there, manifest)
        return True
    if runner.resume and any((folder / DONE).exists() for folder in folders):
        raise OutputError(
            os.fspath(root),
            "holds shards but no manifest.json that says of which plan; choose another output_dir, "
            "or write all anew with resume=False",
        )
    return False


def _remove_all(root: Path, n_shards: int) -> None:
    """Empty the folders of all shards, of any plan, before the manifest is another one."""
    names = {*map(folder_name, range(n_shards))}
    found = (without_link(root / name) for name in shard_folders(root))
    for folder in filter(Path.is_dir, found):
        with held(folder / LOCK, patience=PATIENCE):
            empty(folder)
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def _compute(
    runner: Any, pending: list[Shard], parallel: ParallelConfig | None, show_progress: bool
) -> None:
    """Compute shards: here, or one Dask task for each."""
    total = sum(len(shard.items) for shard in pending)
    if parallel is not None:
        # At call time: it loads Dask.
        from espnet3.parallel.synchronous import on_workers, within_a_task

        if not within_a_task():
            on_workers(
                runner,
                ShardCall(runner, parallel.checkpoint_every, note_item=True),
                pending,
                parallel,
                lambda _, n_items: sum(n_items),
                total=total,
                show_progress=show_progress,
                one_by_one=True,
            )
            return
    from espnet3.user_code.variables import its_own_work  # which no worker needs

    every = CHECKPOINT_EVERY if parallel is None else parallel.checkpoint_every
    call = ShardCall(runner, every)
    with its_own_changes(runner.provider), its_own_work([type(runner), type(runner.provider)]):
        env = runner.provider.build_env_local()
        title = visible(type(runner).__name__)
        with progress_bar(title, total, shown=show_progress) as advance:
            call.advance = advance if show_progress else None
            for shard in pending:
                call(shard, **env)


class ShardCall:
    """Computes the shards of a runner, in this process or, pickled, in a Dask worker.

    Args:
        runner: the runner.
        checkpoint_every: seconds after which what an append-only runner has written is kept.
        note_item: whether exceptions say at which item they were raised.

    Attributes:
        advance: called after each item with 1; None where nobody wants to know.
    """

    def __init__(self, runner: Any, checkpoint_every: float, *, note_item: bool = False) -> None:
        self._runner: type[Any] = type(runner)
        self._given = (os.fspath(runner.output_dir), runner.shard_subdir)
        self._every, self._note_item = checkpoint_every, note_item
        self.advance: Callable[[int], None] | None = None

    def __call__(self, shard: Shard, /, **env: Any) -> int:
        """Compute a shard, in a folder that holds nothing else, or what is kept of it.

        Returns:
            How many items it has.
        """
        runner, folder = self._runner, output_root(*self._given) / folder_name(shard.shard_id)
        with held(without_link(folder) / LOCK, patience=PATIENCE):
            n_kept = kept(folder) if runner.append_only else empty(folder)
            writers = ShardWriters(runner, shard.shard_id, folder, *self._given, env)
            given = writers.forward_env(env)
            with watched() as forked:
                writers.open()
                if runner.append_only:
                    todo = shard.items[n_kept:]
                    self._write_and_keep(todo, n_kept, writers, folder, given, forked)
                else:
                    self._write(shard.items, writers, given, forked)
                writers.close()
            if runner.append_only:
                forget(folder)
        return len(shard.items)

    def _write(
        self,
        items: Sequence[Any],
        writers: ShardWriters,
        given: dict[str, Any],
        forked: list[int],
    ) -> None:
        """The loop over the items; there is nothing in it that could be outside."""
        forward, write, item = self._runner.forward, writers.write, None
        try:
            for item in items if self.advance is None else self._counted(items):
                result = forward(item, **given)
                if forked:
                    end_child()
                write(result)
                if forked:
                    end_child()
        except Exception as error:
            self._note(error, item)
            raise

    def _write_and_keep(
        self,
        items: Sequence[Any],
        n_kept: int,
        writers: ShardWriters,
        folder: Path,
        given: dict[str, Any],
        forked: list[int],
    ) -> None:
        """As `_write`; now and then, and where it ends early, what is written by then is kept."""
        forward, write, item = self._runner.forward, writers.write, None
        written: int | None = n_kept
        due = time.monotonic() + self._every
        try:
            for position, item in enumerate(self._counted(items), n_kept + 1):
                result = forward(item, **given)
                if forked:
                    end_child()
                written = None  # until all of the record is
                write(result)
                if forked:
                    end_child()
                written = position
                if time.monotonic() > due:
                    keep(folder, position, writers.state)
                    due = time.monotonic() + self._every
        except BaseException as error:
            if forked:
                end_child()
            if written is not None:
                with contextlib.suppress(Exception):  # the first one is what matters
                    keep(folder, written, writers.state)
            close_all(writers.state)
            self._note(error, item)
            raise

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            yield item
            if self.advance is not None:
                self.advance(1)

    def _note(self, error: BaseException, item: Any) -> None:
        if self._note_item:
            error.add_note(f"while computing item {one_line(repr(item), 200)}")
