"""What of a run may be gathered: receipts against the plan, and what is left out."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from espnet3.collect.result_parts import Shard, Vouched
from espnet3.collect.unfinished import (
    Positions,
    Unfinished,
    add_positions,
    positions_in_words,
    read_unfinished,
)
from espnet3.config.current import chosen_policy
from espnet3.errors import FailedItems, IncompleteRun, UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.skipped import Skips, read_skipped
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import patiently
from espnet3.specs import layout
from espnet3.specs.models import Receipt, RunSpec
from espnet3.status.observation import Observation, observe
from espnet3.storage.concurrency import gather
from espnet3.text import counted, plural, visible

READERS = 8  # threads that read receipts

Errors = Literal["raise", "keep"]


class PartialResults(UserWarning):
    """Items were left out of what was collected, as `partial` allows."""


async def vouch(
    run_dir: str | os.PathLike[str],
    partial: bool,
    errors: Errors,
    patience: float,
    trust: Trust | None,
    stop: threading.Event,
    *,
    merges: bool = False,
) -> Vouched:
    """Read all receipts and check that the run may be merged.

    Args:
        run_dir: as for `collect`, and so are the others.
        partial: see there.
        errors: see there.
        patience: see there.
        trust: see there.
        stop: set once nobody waits any more.
        merges: whether the caller has the runner's own `merge` called, where it has one.

    Raises:
        UsageError: it has one, and the caller wants the results themselves; or `errors` is neither.
        EspnetError: as `collect`.
    """
    if errors not in get_args(Errors):  # else it would mean `keep`
        raise UsageError(f"errors: {errors!r} is none of {', '.join(get_args(Errors))}")
    call = _Call(run_dir, partial, errors, patience, chosen_policy(trust), stop, merges)
    vouched = await asyncio.to_thread(call.look)
    if isinstance(vouched, RunDirectory):
        vouched = await observe(vouched, call.conclude)
    if vouched.missing:
        n = sum(end - first for first, end in vouched.missing)
        of_all = counted(vouched.run.n_items, "item")
        left = f"{n} of {of_all} {'is' if n == 1 else 'are'} left out"
        where = f"{'that' if n == 1 else 'those'} at {positions_in_words(vouched.missing)}"
        shards = positions_in_words([(rank, rank + 1) for rank in vouched.left_out])
        of = f"of {plural(len(vouched.left_out), 'shard')} {shards}"
        words = visible(f"{vouched.store.root}: {left}, {where}, {of}")
        warnings.warn(words, PartialResults, stacklevel=3)
    return vouched


class _Call(NamedTuple):
    """What results are asked for, and what of them is read before the first is given out."""

    run_dir: str | os.PathLike[str]
    partial: bool
    errors: Errors
    patience: float
    policy: Trust | None
    stop: threading.Event
    merges: bool

    def look(self) -> Vouched | RunDirectory:
        """All that is vouched for; where shards are not done, the directory to look closer at."""
        directory = RunDirectory.open(self.run_dir, self.policy)
        run = directory.run()
        if run.writers is not None and not self.merges:
            raise UsageError(
                f"{directory.root}: its runner writes the results itself, and its merge makes the "
                "output; collect it without saying where or in which form"
            )
        done = directory.receipts(run.world_size).done
        if len(done) == run.world_size:
            return self._vouched(directory, run, done)
        directory.store.refresh(layout.RECEIPTS)
        return directory

    def conclude(self, seen: Observation) -> Vouched:
        """What is vouched for of a run of which shards were not done."""
        left_out = seen.status.unfinished()
        if left_out and not self.partial:
            raise IncompleteRun(seen.directory.root, seen.run.world_size, left_out)
        ranks = [rank for rank in range(seen.run.world_size) if rank not in seen.receipts]
        there = read_unfinished(seen.directory, seen.run, ranks, seen.submissions)
        vouched = self._vouched(seen.directory, seen.run, seen.receipts, there)
        lacking = {shard.rank for shard in there if shard.missing}
        left_out = {rank: words for rank, words in left_out.items() if rank in lacking}
        missing: list[Positions] = []
        for shard in there:
            for positions in shard.missing:
                add_positions(missing, positions)
        return vouched._replace(left_out=left_out, missing=missing)

    def _vouched(
        self,
        directory: RunDirectory,
        run: RunSpec,
        done: Mapping[int, int],
        unfinished: Sequence[Unfinished] = (),
    ) -> Vouched:
        receipts = _read_receipts(directory, run, done, self.patience, self.stop)
        shards: list[Shard] = [*receipts]
        if unfinished:
            shards = sorted([*shards, *unfinished], key=lambda shard: shard.rank)
        if run.results == "pickle":
            _require_trusted(directory, run, shards)
        failed, skipped = [shard for shard in shards if shard.errors], 0
        if failed:
            skips = Skips.read(directory.submissions().known)
            skipped = read_skipped(directory.store, failed, skips)
        if failed and self.errors == "raise":
            count, ranks = sum(shard.errors for shard in failed), [shard.rank for shard in failed]
            merges = run.writers is not None
            raise FailedItems(directory.root, count, ranks, skipped, merges=merges)
        return Vouched(
            directory.store, run, shards, {}, [], self.patience, self.stop, skipped, done
        )


def _require_trusted(directory: RunDirectory, run: RunSpec, shards: Sequence[Shard]) -> None:
    """Refuse to unpickle what others could have written."""
    directory.trust_at_most(run.parallel)
    files = {
        file
        for shard in shards
        for file in (
            shard.files if isinstance(shard, Unfinished) else [part.file for part in shard.parts]
        )
    }
    directory.require_trusted(f"{layout.RESULTS}/{file}" for file in sorted(files))
    directory.require_scripts(run)


def _read_receipts(
    directory: RunDirectory,
    run: RunSpec,
    done: Mapping[int, int],
    patience: float,
    stop: threading.Event,
) -> list[Receipt]:
    """All receipts, in the order of their ranks."""

    def read(rank: int) -> Receipt:
        try:
            return patiently(lambda: directory.receipt(run, rank, done[rank]), patience, stop)
        except BaseException:
            stop.set()  # one that is missing is reason enough
            raise

    return gather(read, sorted(done), READERS)
