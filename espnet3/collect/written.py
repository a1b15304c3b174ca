"""Gathering a run whose runner writes its results itself: verified, laid out, and merged by it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from typing import Any

from espnet3.collect.merging import merge_elsewhere
from espnet3.collect.result_parts import Vouched
from espnet3.collect.shard_folders import lay_out
from espnet3.collect.vouching import Errors, vouch
from espnet3.config.current import chosen_policy
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import PATIENCE, stopping
from espnet3.run_dir.written import note_merged, output_folder


@dataclass(frozen=True, slots=True)
class Merged:
    """What a runner's `merge` made of its shards.

    Attributes:
        output: the folder that the shards' folders are in.
        value: what `merge` returned.
        shards: how many it was given.
        records: how many items these have.
        left_out: rank -> state and cause, for every shard that `partial` left out.
        errors: how many of the items failed and were recorded, or were passed over.
        missing: positions among the run's items of those that were left out, as in `Collected`.
        skipped: how many of `errors` were passed over.
    """

    output: str
    value: Any
    shards: int
    records: int
    left_out: dict[int, str]
    errors: int
    missing: list[tuple[int, int]]
    skipped: int = 0


async def merge_written(
    run_dir: str | os.PathLike[str],
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
    quiet: bool = False,
) -> Merged:
    """Verify what the shards of a run have written, and have its runner merge it.

    Args:
        run_dir: as for `collect`, and so are the others.
        partial: see there; shards are merged as a whole or not at all.
        errors: see there.
        patience: see there.
        trust: see there; code that the run directory names is run.
        quiet: whether what `merge` prints goes to standard error.

    Raises:
        WriterFailed: `merge` raised, or its process died.
        OutputError: the output folder is not the run's, or cannot be written.
        EspnetError: as `collect`.
    """
    with stopping() as stop:
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop, merges=True)
        return await merge_vouched(vouched, trust, quiet=quiet)


async def merge_vouched(vouched: Vouched, trust: Trust | None, *, quiet: bool = False) -> Merged:
    """As `merge_written`, of a run whose receipts were read."""
    run, directory = vouched.run, RunDirectory(vouched.store, chosen_policy(trust))
    with contextlib.ExitStack() as lock:
        folders = await asyncio.to_thread(lay_out, directory, vouched, lock)
        await asyncio.to_thread(note_merged, directory, run, {})  # what it leaves may be half
        value = await merge_elsewhere(directory, run, folders, quiet=quiet)
        await asyncio.to_thread(note_merged, directory, run, vouched.generations)
    return Merged(
        output=output_folder(run),
        value=value,
        shards=len(folders),
        records=sum(shard.records for shard in vouched.shards),
        left_out=vouched.left_out,
        errors=sum(shard.errors for shard in vouched.shards),
        missing=vouched.missing,
        skipped=vouched.skipped,
    )
