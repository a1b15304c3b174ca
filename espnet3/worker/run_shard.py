"""`python -m espnet3.worker.run_shard SPEC.json`: compute one shard here, to see what it does.

It is an attempt like any other, of submission 0: it goes on from what earlier attempts left, and a
receipt makes the shard done. With `--item` that item alone is computed, and nothing written.
Standard input, output and error are the terminal's, so that a debugger works in `forward`.
"""

from __future__ import annotations

import argparse
import os
import sys

from espnet3._streams import print_by_line
from espnet3.errors import (
    EspnetError,
    FileMissing,
    FormatError,
    InvalidFile,
    RunDirectoryError,
    UsageError,
)
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.item_words import wanted_item
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.submissions import newest_submission
from espnet3.run_dir.trust import POLICIES, require_own
from espnet3.specs import layout
from espnet3.specs.codec import decode
from espnet3.specs.models import AttemptRecord, RunSpec, ShardSpec, Submission
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.text import visible
from espnet3.worker import exit_codes
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.code import enter_code
from espnet3.worker.computing import NO_LIMITS, limits_of
from espnet3.worker.main import log_to_stderr
from espnet3.worker.one_item import compute_item
from espnet3.worker.process_restore import restart
from espnet3.worker.task import run_task
from espnet3.worker.terms import HEARTBEAT, Terms

SUBMISSION = 0


def main(argv: list[str]) -> int:
    """Compute the shard of a spec file.

    Args:
        argv: the path or URL of the spec, `--trust` with whose run directories are believed, and
            `--item` with an item of the shard.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.
    """
    parser = argparse.ArgumentParser(prog="python -m espnet3.worker.run_shard")
    parser.add_argument("spec")
    parser.add_argument("--trust", choices=POLICIES)
    parser.add_argument("--item")
    options = parser.parse_args(argv)
    path = options.spec
    log_to_stderr()
    print_by_line()
    try:
        spec, store = find_run(path)
        directory = RunDirectory(store, options.trust)
        newest = newest_submission(store)
        run = directory.trusted_run([newest] if newest else [])
        if "://" not in path:  # it says which run, and may lie elsewhere
            require_own(os.path.abspath(os.path.expanduser(path)), directory.trust)
        if spec.fingerprint != run.fingerprint:
            raise RunDirectoryError(path, f"is a shard of another run than {store.root}")
        restart(run)
        submission = None if newest is None else read_persisted(store, Submission, newest)
        run = enter_code(directory, run, submission)
        if options.item is not None:
            return compute_item(directory, run, spec.rank, wanted_item(options.item))
        code = run_task(
            directory,
            run,
            [spec.rank],
            SUBMISSION,
            SchedulerTask(None, None),
            may_have_predecessors=True,
            limits=NO_LIMITS if submission is None else limits_of(submission, run),
            heartbeat=HEARTBEAT if submission is None else Terms.of(submission).heartbeat,
            asks_gpus=submission is None or submission.usage,
        )
    except EspnetError as error:
        print(f"espnet3: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    if code == exit_codes.FAILED:
        _print_traceback(store, run, spec.rank)
    return code


def find_run(path: str) -> tuple[ShardSpec, Store]:
    """A shard's spec and its run: the one it lies in, else the one that it points to.

    Raises:
        EspnetError: it is not a spec.
    """
    folder, _, name = path.rpartition("/")
    if "://" not in path:
        folder, name = os.path.split(os.path.abspath(os.path.expanduser(path)))
    if not name:
        raise UsageError(f"{path}: is not a shard's spec; give a file such as shards/000000.json")
    try:
        spec = decode(ShardSpec, open_store(folder).read(name), path)
    except FileMissing:
        raise UsageError(f"{path}: no such file") from None
    except InvalidFile:
        if name.endswith(".json"):
            raise
        raise UsageError(
            f"{path}: is not a shard's spec; give RUN_DIR RANK, or a file such as "
            "RUN_DIR/shards/000000.json"
        ) from None
    beside = open_store(os.path.dirname(folder))
    if os.path.basename(folder) == layout.SHARDS and beside.exists(layout.RUN):
        return spec, beside
    return spec, open_store(os.path.dirname(spec.run))


def _print_traceback(store: Store, run: RunSpec, rank: int) -> None:
    """Print the traceback of this process's attempt, which its record holds."""
    for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS)):
        if file is None or file.rank != rank or file.event != "failed":
            continue
        if layout.submission_of(file.attempt) != SUBMISSION:
            continue
        path = layout.attempt_record(*file)
        try:
            record = read_persisted(store, AttemptRecord, path)
        except (FileMissing, FormatError):
            continue  # another one's
        mine = (record.host, record.pid) == (os.uname().nodename, os.getpid())
        if mine and record.error is not None and record.error.traceback:
            print(visible(record.error.traceback), end="", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
