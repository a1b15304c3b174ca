"""The shards that a user names: by their ranks, or by the files of their specs."""

from __future__ import annotations

import os
from collections.abc import Iterable

from espnet3.errors import RunDirectoryError
from espnet3.specs.models import RunSpec, ShardSpec, decode
from espnet3.storage.opening import open_store


def named_ranks(
    root: str, run: RunSpec, wanted: Iterable[int | str | os.PathLike[str]]
) -> list[int]:
    """The ranks that a user named, in order, each once.

    Args:
        root: the run directory, for errors.
        run: its run.json.
        wanted: ranks, or paths of spec files.

    Raises:
        UsageError: the run has no such shard.
        FormatError, StoreError: a file is not a shard's spec.
    """
    found = set()
    for one in wanted:
        if isinstance(one, int) or str(one).isdecimal():
            rank = int(one)  # type: ignore[arg-type]
        else:
            rank = _rank_of_spec(run, os.fspath(one))
        run.require_rank(rank, root)
        found.add(rank)
    return sorted(found)


def _rank_of_spec(run: RunSpec, path: str) -> int:
    folder, name = os.path.split(path)
    store = open_store(folder or os.curdir)
    spec = decode(ShardSpec, store.read(name), path)
    if spec.fingerprint != run.fingerprint:
        raise RunDirectoryError(path, f"is a shard of another run ({spec.run})")
    return spec.rank
