"""What a wave that was queued up front has to do, as a finisher decided (decision 0021)."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import orjson

from espnet3.errors import FileMissing
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import QueuedAhead

log = logging.getLogger("espnet3.worker")


def wanted_ranks(directory: RunDirectory, ahead: QueuedAhead) -> Collection[int] | None:
    """The shards that a wave is to compute; None for all that are missing, where nobody decided.

    Args:
        directory: the run directory.
        ahead: of the wave's submission.
    """
    store = directory.store
    store.refresh(layout.WAVES)
    try:
        wave = store.read(layout.wave(ahead.wave))
    except FileMissing:
        if store.exists(layout.finished(ahead.end)):
            log.info("nothing to do: the run is over")
            return ()
        log.warning("nobody decided what this wave is to do: all that is missing")
        return None
    try:
        return _ranks(orjson.loads(wave))
    except (KeyError, TypeError, ValueError):
        log.warning("%s cannot be read: all that is missing", store.locate(layout.wave(ahead.wave)))
        return None


def _ranks(wave: Any) -> set[int]:
    """By hand: workers have no model of a wave, which nearly none of them would ever read."""
    found: set[int] = set()
    for portion in wave["portions"]:
        ranks = portion["ranks"]
        if "values" in ranks:
            found.update(map(int, ranks["values"]))
        else:
            start, stop, step = (int(ranks[name]) for name in ("start", "stop", "step"))
            found.update(range(start, stop, step))
    return found
