"""One item of a shard, computed here to see what becomes of it; nothing of it is kept."""

from __future__ import annotations

import logging
import sys
import tempfile
from typing import Any

import orjson

from espnet3.errors import EspnetError, UnserializableResult
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

    A runner with writers writes it, into a folder that is removed. Whether the shard is done, or
    the item is recorded as failed, makes no difference.

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
            runner, env = build_environment(run, signals, Meter(asks_gpus=False), rank)
            log.info("shard %d: item at position %d", rank, position)
            signals.armed = True
            try:
                result = _computed(run, runner, rank, env, item)
            finally:
                signals.armed = False
            encode = encode_json if run.results == "json" else encode_pickle
            line = encode(item, result).decode()
        except UnserializableResult as error:
            if run.writers is None:
                _say_why(error)
                return exit_codes.FAILED
            # Writers take any result: that this cannot be shown is no failure.
            print(f"forward returned a {error.type_name}, which is not shown", file=sys.stderr)
            return exit_codes.DONE
        except Interrupted:
            return exit_codes.INTERRUPTED
        except BaseException as error:  # noqa: BLE001 (the user's code, which may call sys.exit)
            _say_why(error)
            return exit_codes.FAILED
    sys.stdout.write(visible_json(line) if sys.stdout.isatty() else line)
    sys.stdout.flush()
    return exit_codes.DONE


def _computed(run: RunSpec, runner: type[Any], rank: int, env: dict[str, Any], item: Any) -> Any:
    """What `forward` returns for an item; with writers, it is written to a temporary folder."""
    given = orjson.loads(orjson.dumps(item))  # a copy, as in a run
    if run.writers is None:
        return runner.forward(given, **env)
    # Which others need not load.
    from espnet3.worker.trial import tried
    from espnet3.worker.written import writers_of

    with tempfile.TemporaryDirectory(prefix="espnet3-", ignore_cleanup_errors=True) as folder:
        writers = writers_of(run, runner, rank, folder, env)
        with tried(writers) as write:
            result = runner.forward(given, **writers.forward_env(env))
            write(item, result)
    return result


def _say_why(error: BaseException) -> None:
    """The traceback; and on the last line what it means."""
    cause = error.__cause__ if isinstance(error, EspnetError) else error
    if cause is not None:
        print_traceback(cause)
    ours = scrubbed(str(error)) if isinstance(error, EspnetError) else describe(error)
    print(f"espnet3: {ours}", file=sys.stderr)


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an exception of the user's code on standard error."""
    print(visible(error_record(error).traceback), end="", file=sys.stderr)
