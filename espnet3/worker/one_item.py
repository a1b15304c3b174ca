"""One item of a shard, computed here to see what becomes of it; nothing of it is written."""

from __future__ import annotations

import logging
import sys

import orjson

from espnet3.errors import EspnetError
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.item_words import WantedItem
from espnet3.run_dir.result_lines import encode_json, encode_pickle
from espnet3.specs.items import batched
from espnet3.specs.models import RunSpec
from espnet3.text import visible, visible_json
from espnet3.worker import exit_codes
from espnet3.worker.attempt import describe, error_record
from espnet3.worker.environment import build_environment
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.usage import Meter

log = logging.getLogger("espnet3.worker")


def compute_item(directory: RunDirectory, run: RunSpec, rank: int, wanted: WantedItem) -> int:
    """Call `forward` for one item, and print its result line or its traceback.

    Whether the shard is done, or the item is recorded as failed, makes no difference.

    Args:
        directory: the run directory.
        run: its run.json.
        rank: the shard that holds the item.
        wanted: the item; a position is one within the shard.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.

    Raises:
        UsageError: the shard has no such item.
    """
    items = batched(directory.shard(run, rank).items, run.batch_size)
    position = wanted.position_in(items)
    if position is None:
        raise wanted.missing(f"shard {rank}", len(items))
    item = items[position]
    with Signals() as signals:
        try:
            forward, env = build_environment(run, signals, Meter(asks_gpus=False), rank)
            log.info("shard %d: item at position %d", rank, position)
            signals.armed = True
            try:  # on a copy, as in a run
                result = forward(orjson.loads(orjson.dumps(item)), **env)
            finally:
                signals.armed = False
            encode = encode_json if run.results == "json" else encode_pickle
            line = encode(item, result).decode()
        except Interrupted:
            return exit_codes.INTERRUPTED
        except BaseException as error:  # noqa: BLE001 (the user's code, which may call sys.exit)
            _say_why(error)
            return exit_codes.FAILED
    sys.stdout.write(visible_json(line) if sys.stdout.isatty() else line)
    sys.stdout.flush()
    return exit_codes.DONE


def _say_why(error: BaseException) -> None:
    """The traceback; and on the last line what it means."""
    cause = error.__cause__ if isinstance(error, EspnetError) else error
    if cause is not None:
        print(visible(error_record(cause).traceback), end="", file=sys.stderr)
    ours = scrubbed(str(error)) if isinstance(error, EspnetError) else describe(error)
    print(f"espnet3: {ours}", file=sys.stderr)
