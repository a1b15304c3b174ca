"""What a runner's hooks write: the folder of an attempt, from its first item to its receipt."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet3.errors import OutputError, WriterFailed
from espnet3.run_dir.receipt_history import read_receipt_history
from espnet3.run_dir.salvage import Kept
from espnet3.run_dir.written_salvage import Checkpoint, find_checkpoint, kept_lines, takes_over
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, Written, WrittenFile
from espnet3.storage import written_folder
from espnet3.storage.written_folder import Seen
from espnet3.user_code.writers import HOOKS, ShardWriters, flush_writers
from espnet3.worker.attempt import Attempt, describe, let_go
from espnet3.worker.computing import SIGNAL_GRACE, Work
from espnet3.worker.signals import Interrupted


@contextlib.contextmanager
def writing(
    work: Work, attempt: Attempt, earlier: Iterable[layout.ResultFile], items: Sequence[Any]
) -> Iterator[Writing]:
    """The folder of an attempt whose runner writes, with the writers opened.

    Args:
        work: what all shards of this process share.
        attempt: the attempt.
        earlier: the result files of earlier attempts at this shard.
        items: the shard's.

    Raises:
        WriterFailed: a hook raised.
        Interrupted: a signal came.
    """
    work.directory.require_run(work.run.run_id)
    with _folder_of(work, attempt) as folder:
        files = Writing(work, attempt, folder)
        files.begin(earlier, items)
        yield files


@contextlib.contextmanager
def _folder_of(work: Work, attempt: Attempt) -> Iterator[str]:
    """A new folder: in the run directory, or a temporary one of which that gets a copy."""
    path = layout.written(attempt.rank, attempt.name)
    folder = written_folder.in_place(work.directory.store, path)
    if folder is not None:
        written_folder.make_folders(folder)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="espnet3-", ignore_cleanup_errors=True) as above:
        folder = os.path.join(above, os.path.basename(path))
        os.mkdir(folder)
        yield folder


class Writing:
    """An attempt's folder, and the hooks that write to it.

    Attributes:
        work: as it was given, but that `forward` writes what it computes, once it has begun.
        kept: for each item the line that an earlier attempt left, or None; likewise.
    """

    def __init__(self, work: Work, attempt: Attempt, folder: str) -> None:
        self.work = work
        self._directory, self._run, self._signals = work.directory, work.run, work.signals
        self._attempt, self._folder = attempt, folder
        self._shown = _as_given(folder, work.run)
        self._writers = writers_of(work.run, work.runner, attempt.rank, self._shown, work.env)
        self._goes_on = takes_over(work.run, work.directory.store)
        self._synced: dict[str, Seen] = {}
        self._checked_at = time.monotonic()
        self.kept: Iterator[Kept | None] = iter(())

    def begin(self, earlier: Iterable[layout.ResultFile], items: Sequence[Any]) -> None:
        """Begin the shard; behind what an earlier attempt has written, where files only grow.

        Raises:
            WriterFailed: a hook raised.
            Interrupted: a signal came.
        """
        found = self._take_over(earlier, items) if self._goes_on else None
        self.kept = kept_lines(self._directory.store, found, items)
        self._call("init_state", self._writers.open)
        work, env = self.work, self._writers.forward_env(self.work.env)
        self.work = work._replace(forward=self._forward_and_write(work.forward, env), env={})

    def finish(self) -> Written:
        """End the shard: all that was written is durable, and in the run directory.

        Raises:
            WriterFailed: a hook raised, or left what cannot be vouched for.
            Interrupted: a signal came.
        """
        self._call("finalize_state", self._writers.close)
        found = written_folder.look_at(self._folder)
        written_folder.close_to_others(self._folder, found)
        written_folder.sync_files(self._folder, found.files, found.folders)
        files = [self._vouched(path) for path in found.files]
        store, path = self._directory.store, layout.written(self._attempt.rank, self._attempt.name)
        if written_folder.in_place(store, path) is None:
            self._directory.require_run(self._run.run_id)
            written_folder.upload_files(store, path, self._folder, found.files)
        self._signals.check()
        return Written(folder=self._shown, files=files)

    def _vouched(self, path: str) -> WrittenFile:
        self._signals.check()
        try:
            path.encode()
        except UnicodeEncodeError:
            name = path.encode(errors="backslashreplace").decode()
            raise WriterFailed("close_writers", None, f"left {name}, which is no UTF-8") from None
        size, checksum = written_folder.measure(os.path.join(self._folder, path))
        return WrittenFile(path=path, bytes=size, checksum=checksum)

    def _forward_and_write(
        self, forward: Callable[..., Any], env: Mapping[str, Any]
    ) -> Callable[[Any], Any]:
        """`forward`, after which the result is written, and is null."""
        write = self._writers.write

        def forward_and_write(item: Any) -> Any:
            result = forward(item, **env)
            call_hook("reduce_state", item, write, result)

        if not self._goes_on:
            return forward_and_write
        every = self._run.checkpoint_every

        def with_checkpoints(item: Any) -> Any:
            forward_and_write(item)
            if time.monotonic() - self._checked_at < every:
                return None
            return call_hook("flush", item, self._checkpoint)

        return with_checkpoints

    def _checkpoint(self) -> dict[str, Any] | None:
        """Make durable what is written so far; None where not all of it is known.

        Returns:
            What the item's line says: path -> how many bytes, and where the folder was seen.
        """
        self._checked_at = time.monotonic()
        if not flush_writers(self._writers.state):
            return None
        files, folders = written_folder.look_at(self._folder)
        changed = [path for path, seen in files.items() if self._synced.get(path) != seen]
        self._signals.armed = False  # what is synced is known to be
        written_folder.sync_files(self._folder, changed, folders)
        self._synced, self._checked_at = files, time.monotonic()
        sizes = {path: size for path, (_, size, _) in files.items()}
        return {"written": sizes, "folder": self._shown}

    def _take_over(
        self, earlier: Iterable[layout.ResultFile], items: Sequence[Any]
    ) -> Checkpoint | None:
        """Copy what an earlier attempt had written by the last place at which that is known."""
        store, attempt, limits = self._directory.store, self._attempt, self.work.limits
        rank, files = attempt.rank, [*earlier]
        if not files:
            return None
        history = read_receipt_history(
            store, self._run, rank, attempt.generation, limits.errors_from_submission
        )
        found = (find_checkpoint(store, file, items, history) for file in files)
        known = [checkpoint for checkpoint in found if checkpoint is not None]
        for checkpoint in sorted(known, key=lambda each: each.end, reverse=True):
            folder = store.locate(layout.written(rank, checkpoint.file.attempt))
            if written_folder.has_beginnings(folder, checkpoint.sizes):
                written_folder.copy_beginnings(folder, self._folder, checkpoint.sizes)
                return checkpoint
        return None

    def _call(self, hook: str, action: Callable[[], None]) -> None:
        """Call a hook for the whole shard."""
        signals = self._signals
        signals.check()
        try:
            signals.armed = True
            action()
            signals.check()  # code that swallowed one came to any end
        except (Interrupted, OutputError):
            raise
        except BaseException as error:  # the user's code, which may call sys.exit
            # As for `forward`: a signal for the whole job may have ended what it ran.
            time.sleep(SIGNAL_GRACE)
            signals.check()
            error = let_go(error)
            raise _failed(hook, None, error) from error
        finally:
            signals.armed = False


def _as_given(folder: str, run: RunSpec) -> str:
    """A folder by a name as hooks see it in local mode: relative where the output folder is."""
    if run.writers is None or os.path.isabs(run.writers.output_dir):
        return folder
    return os.path.relpath(folder)


def writers_of(
    run: RunSpec, runner: type[Any] | None, rank: int, folder: str, env: Mapping[str, Any]
) -> ShardWriters:
    """The hooks of the runner of a run that has writers, for one shard."""
    if run.writers is None or runner is None:
        raise TypeError("a runner without writers has no hooks")
    spec = run.writers
    return ShardWriters(runner, rank, Path(folder), spec.output_dir, spec.shard_subdir, env)


def call_hook(
    hook: str,
    item: Any,
    action: Callable[..., Any],
    *args: Any,
    spared: tuple[type[BaseException], ...] = (Interrupted,),
) -> Any:
    """What an action returns that calls a hook for an item, or for none.

    Raises:
        WriterFailed: it raised anything but what is spared.
    """
    try:
        return action(*args)
    except spared:
        raise
    except BaseException as error:  # the user's code, which may call sys.exit
        error = let_go(error)
        raise _failed(hook, item, error) from error


def _failed(hook: str, item: Any, error: BaseException) -> WriterFailed:
    """What the user's code raised in a hook, or in one that this has called."""
    traceback = error.__traceback__
    while traceback is not None:
        name = traceback.tb_frame.f_code.co_name
        hook = name if name in HOOKS else hook
        traceback = traceback.tb_next
    return WriterFailed(hook, item, describe(error))
