"""`espnet3 logs --item`: which shard and attempt an item belongs to, and what it failed with."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from espnet3._blocking import run_blocking
from espnet3.cli import show
from espnet3.collect.one_item import FoundItem, find_item
from espnet3.text import one_line


def found_item(words: Sequence[str], item: str) -> FoundItem:
    """The item that `RUN_DIR --item X` means.

    Raises:
        EspnetError: there is no such run or item.
    """
    if len(words) != 1:
        raise click.UsageError("with --item give RUN_DIR alone, since the item says which shard")
    with show.waiting("looking for the item"):
        return run_blocking(find_item(words[0], item))


def show_item(run_dir: str, found: FoundItem, logs: Sequence[str], *, as_json: bool) -> bool:
    """Say where an item is, and show its traceback.

    Args:
        run_dir: the run directory.
        found: the item.
        logs: the logs of its shard.
        as_json: print one document that has all of it.

    Returns:
        Whether that is the whole answer; else the shard's log is to follow.
    """
    if as_json:
        show.json_document(
            {
                "run_dir": run_dir,
                **found._asdict(),
                "error": None if found.error is None else found.error.model_dump(),
                "logs": [*logs],
            }
        )
        return True
    what = one_line(json.dumps(found.item, ensure_ascii=False), 80)
    by = "" if found.attempt is None else f", by attempt {found.attempt}"
    words = {"done": "is done", "failed": "failed", "missing": "is not done"}[found.state]
    where = f"shard {found.rank} (position {found.position} there)"
    show.problem(f"item {what} of {where} {words}{by}")
    if logs:
        show.problem(f"log: {logs[-1]}")
    if found.error is None:
        return False
    show.say((found.error.traceback or found.error.message).rstrip("\n"))
    return True
