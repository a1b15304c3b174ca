"""Runs that are done, made without any worker: what they hold is what a test says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet3.run_dir.result_lines import encode_error, encode_json, encode_pickle
from espnet3.specs import layout
from espnet3.specs.items import shard_bounds
from espnet3.specs.models import ErrorRecord, Receipt, ResultPart, RunSpec, encode, now
from espnet3.storage.opening import open_store
from tests.support.worker_runs import write_run


def finished_run(
    folder: Path,
    results: Sequence[Any],
    *,
    items: Sequence[Any] | None = None,
    n_shards: int = 3,
    done: Iterable[int] | None = None,
    errors: Mapping[int, ErrorRecord] | None = None,
    pickled: bool = False,
) -> str:
    """Results and receipts of shards; the run directory.

    Args:
        folder: the run directory is `run` in it.
        results: what `forward` is said to have returned.
        items: what it was called with; numbers from 0 on where unset.
        n_shards: how many shards there are, at most.
        done: ranks of those that are done; all where unset.
        errors: position -> what was recorded there instead.
        pickled: whether results are stored as pickles.
    """
    store = open_store(folder / "run")
    items = range(len(results)) if items is None else items
    kind: dict[str, Any] = {"results": "pickle"} if pickled else {}
    run = write_run(store, {}, items, n_shards=min(n_shards, len(items)), **kind)
    failed = errors or {}
    for rank in range(run.world_size) if done is None else done:
        first, last = shard_bounds(rank, run.world_size, len(items))
        lines = b""
        for i in range(first, last):
            if i in failed:
                lines += encode_error(items[i], failed[i])
            else:
                lines += (encode_pickle if pickled else encode_json)(items[i], results[i])
        finish_shard(store.root, run, rank, [lines], errors=sum(first <= i < last for i in failed))
    return store.root


def finish_shard(
    root: str | Path, run: RunSpec, rank: int, parts: Iterable[bytes], *, errors: int = 0
) -> None:
    """Write the results and the receipt of a shard, as a worker would.

    Args:
        root: the run directory, a path.
        run: its run.json.
        rank: the shard.
        parts: the lines of each of its result files.
        errors: how many lines are errors.
    """
    attempt, records = layout.new_attempt(1), 0
    known = []
    for lines in parts:
        path = layout.result(rank, attempt, records)
        Path(root, path).write_bytes(lines)
        part = ResultPart(
            file=path.rpartition("/")[2],
            first=records,
            records=lines.count(b"\n"),
            bytes=len(lines),
            checksum=f"sha256:{hashlib.sha256(lines).hexdigest()}",
        )
        known.append(part)
        records += part.records
    receipt = Receipt(
        rank=rank,
        attempt=attempt,
        fingerprint=run.fingerprint,
        records=records,
        errors=errors,
        salvaged=0,
        parts=known,
        host="here",
        created=now(),
    )
    Path(root, layout.receipt(rank)).write_bytes(encode(receipt))
