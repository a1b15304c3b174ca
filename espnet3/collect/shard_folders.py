"""The folders `split.N` of a run with writers: links to what attempts have written, or copies."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import orjson

from espnet3.collect.result_parts import Shard, Vouched, take_in_turn
from espnet3.errors import DamagedResult, FileMissing, OutputError, StoreError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.submissions import newest_submission
from espnet3.run_dir.verification import difference, patiently, verify_written
from espnet3.run_dir.written import output_folder, require_own_output
from espnet3.specs import layout
from espnet3.specs.models import Receipt, ResultPart, RunSpec, Written, WrittenFile
from espnet3.storage.base import Store
from espnet3.storage.concurrency import gather
from espnet3.storage.folder_lock import OF_ALL, held
from espnet3.storage.local import LocalStore
from espnet3.storage.permissions import make_folder, make_folders, opener, unfinished_name
from espnet3.storage.written_folder import look_at
from espnet3.user_code.manifest import shard_folders
from espnet3.user_code.writers import folder_name

log = logging.getLogger("espnet3.collect")
READERS = 8  # threads that read what was written, a shard each


def lay_out(
    directory: RunDirectory, vouched: Vouched, lock: contextlib.ExitStack
) -> dict[int, list[str]]:
    """Verify what was written, and put each shard's folder where `merge` looks for it.

    Args:
        directory: the run directory, whose code is about to be run.
        vouched: what may be merged; shards without a receipt are left out.
        lock: gets the output folder's: who holds it may have the shards merged.

    Returns:
        Rank -> paths at which the shard's writers saw its folder, in order.

    Raises:
        Untrusted: others could have written what would be run.
        DamagedResult: something is not what its receipt vouched for.
        OutputError: the output folder is not the run's, or cannot be written.
        StoreError: something cannot be read.
    """
    store = directory.store
    newest = newest_submission(store)
    run = directory.trusted_run([newest] if newest else [])
    receipts = [shard for shard in vouched.shards if isinstance(shard, Receipt)]
    for each in receipts:  # before any of the output is touched
        _written(store, each)
        directory.require_files(_all_within(store, layout.written(each.rank, each.attempt)))
    require_own_output(directory, run)
    folders = _Folders()
    take_in_turn(vouched, folders.take)
    output = output_folder(run)
    _require_place(run, output)

    def place(receipt: Receipt) -> None:
        vouched.require_wanted()
        path = os.path.join(output, folder_name(receipt.rank))
        if isinstance(store, LocalStore):
            patiently(lambda: verify_written(store, receipt), vouched.patience, vouched.stop)
            _link(path, store.locate(layout.written(receipt.rank, receipt.attempt)))
        elif not _holds(path, _written(store, receipt)):
            _download(vouched, receipt, path)

    try:
        make_folders(output)
        lock.enter_context(_turn(vouched, output))
        require_own_output(directory, run)  # it may be another one's by now
        _remove_other_links(output, receipts)
        gather(place, receipts, READERS)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error})"
        raise OutputError(str(error.filename or output), problem) from None
    return _seen(store, receipts, folders)


def _all_within(store: Store, folder: str) -> Iterator[str]:
    """A folder of this host's and all that `merge` would find there; none of an object store.

    Not what links lead to, which its receipt vouches for: it may be a corpus of others.
    """
    if not isinstance(store, LocalStore):
        return
    yield folder
    for path, folders, files in os.walk(store.locate(folder)):
        for name in (*folders, *files):
            found = os.path.join(path, name)
            if not os.path.islink(found):
                yield os.path.relpath(found, store.root)


def _turn(vouched: Vouched, output: str) -> contextlib.AbstractContextManager[None]:
    """The lock of an output folder, for which is waited as long as somebody wants the results."""
    told: list[str] = []

    def tell(whose: str) -> None:
        vouched.require_wanted()
        if not told:
            told.append(whose)
            log.warning("%s: is being written by %s; waiting until that has ended", output, whose)

    return held(os.path.join(output, OF_ALL), patience=math.inf, meanwhile=tell)


class _Folders:
    """Takes result lines, whose results nobody wants: at which paths their folders were seen.

    An attempt that went on where another one had ended has that one's lines and files, and these
    have paths of its folder in them.
    """

    def __init__(self) -> None:
        self.by_rank: dict[int, dict[str, None]] = {}

    def take(self, shard: Shard, part: ResultPart, source: BinaryIO) -> None:
        found = self.by_rank.setdefault(shard.rank, {})
        for line in source:
            if b'"written"' in line:
                result = orjson.loads(line).get("result")
                folder = result.get("folder") if isinstance(result, dict) else None
                found |= {folder: None} if isinstance(folder, str) else {}


def _written(store: Store, receipt: Receipt) -> Written:
    """What a receipt says was written.

    Raises:
        DamagedResult: it does not say it.
    """
    if receipt.written is None:
        where = store.locate(layout.receipt(receipt.rank))
        raise DamagedResult(where, receipt.rank, "does not say what was written", store.root)
    return receipt.written


def _seen(store: Store, receipts: Sequence[Receipt], earlier: _Folders) -> dict[int, list[str]]:
    """Rank -> paths of its folder that its files may have in them."""
    return {
        each.rank: [*{_written(store, each).folder: None} | earlier.by_rank.get(each.rank, {})]
        for each in receipts
    }


def _require_place(run: RunSpec, output: str) -> None:
    """Refuse a folder that is meant from one which is not there."""
    here, writers = run.working_directory, run.writers
    if writers is None or os.path.isabs(writers.output_dir) or os.path.isdir(here):
        return
    raise OutputError(output, f"lies where the run was submitted, and there is no {here} here")


def _remove_other_links(output: str, receipts: Sequence[Receipt]) -> None:
    """Remove links of shards that are left out: nothing finds what is not to be merged."""
    wanted = {folder_name(each.rank) for each in receipts}
    for name in {*shard_folders(output)} - wanted:
        path = os.path.join(output, name)
        if os.path.islink(path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _link(path: str, target: str) -> None:
    """Have a path lead to a folder, in place of where it led before.

    Raises:
        OutputError: it is no link.
        OSError: it cannot be made.
    """
    real, parent = os.path.realpath(target), os.path.realpath(os.path.dirname(path))
    if real.startswith(f"{parent}/"):  # so that both may be moved together
        target = os.path.relpath(real, parent)
    if os.path.islink(path):
        if os.readlink(path) == target:
            return
    elif os.path.lexists(path):
        problem = "is a folder that this run has not made; move it away, and collect again"
        raise OutputError(path, problem)
    unfinished = unfinished_name(path)
    os.symlink(target, unfinished)
    try:
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def _holds(path: str, written: Written) -> bool:
    """Whether a folder holds what an attempt has written, and no more: an earlier copy."""
    if os.path.islink(path) or not os.path.isdir(path):
        return False
    try:
        if {*look_at(path).files} != {file.path for file in written.files}:
            return False  # what is left of another attempt would be merged
        for file in written.files:
            with open(os.path.join(path, file.path), "rb") as stream:
                if difference(stream, file) is not None:
                    return False
    except (OSError, StoreError):
        return False
    return True


def _download(vouched: Vouched, receipt: Receipt, path: str) -> None:
    """Copy what an attempt has written from an object store; it appears once it is whole.

    Raises:
        DamagedResult: it is not what the receipt vouched for.
        OSError: the copy cannot be written.
    """
    store, folder = vouched.store, layout.written(receipt.rank, receipt.attempt)
    unfinished, old = unfinished_name(path), unfinished_name(path)
    try:
        make_folder(unfinished)
        for file in _written(store, receipt).files:
            vouched.require_wanted()
            source, target = f"{folder}/{file.path}", os.path.join(unfinished, file.path)
            make_folders(os.path.dirname(target))
            fetch = _Fetch(store, source, target, file, receipt.rank)
            patiently(fetch, vouched.patience, vouched.stop)
        if os.path.lexists(path):  # of an earlier attempt
            os.rename(path, old)
        os.rename(unfinished, path)
    finally:
        for rest in (unfinished, old):
            if os.path.islink(rest):
                os.unlink(rest)
            shutil.rmtree(rest, ignore_errors=True)


class _Fetch:
    """Copies one file, and looks at the copy."""

    def __init__(
        self, store: Store, source: str, target: str, file: WrittenFile, rank: int
    ) -> None:
        self._store, self._source, self._target = store, source, target
        self._file, self._rank = file, rank

    def __call__(self) -> None:
        problem = self._problem()
        if problem is not None:
            where = self._store.locate(self._source)
            raise DamagedResult(where, self._rank, problem, self._store.root)

    def _problem(self) -> str | None:
        try:
            source = self._store.open(self._source)
        except FileMissing:
            return "is missing"
        with source, open(self._target, "w+b", opener=opener) as copied:
            shutil.copyfileobj(source, copied, 1 << 20)
            copied.seek(0)
            return difference(copied, self._file)
