"""`python -m espnet3.worker.join RUN_DIR`: a worker that joins a run from anywhere.

It claims what is free, as the workers of a dynamic submission do, and shares what they are at. Its
attempts count as those of the newest submission. Standard streams are the terminal's.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import time

from espnet3._streams import print_by_line
from espnet3.errors import EspnetError, RunDirectoryError
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.submissions import newest_submission
from espnet3.run_dir.trust import POLICIES
from espnet3.specs import layout
from espnet3.specs.models import Submission
from espnet3.worker import exit_codes
from espnet3.worker.attempt import BEGAN, SchedulerTask
from espnet3.worker.dynamic import Bounds, run_claimed
from espnet3.worker.main import log_to_stderr
from espnet3.worker.process_restore import restart
from espnet3.worker.shard import limits_of
from espnet3.worker.terms import Terms


def main(argv: list[str]) -> int:
    """Claim shards of a run until there are none for this worker.

    Args:
        argv: the run directory and options.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.
    """
    options = _parser().parse_args(argv)
    log_to_stderr()
    print_by_line()
    try:
        directory = RunDirectory.open(options.run_dir, options.trust)
        store = directory.store
        newest = newest_submission(store)
        run = directory.trusted_run([newest] if newest else [])
        if newest is None:
            raise RunDirectoryError(
                directory.root, "nothing of it was submitted yet; submit it, and join then"
            )
        submission = directory.read(Submission, newest)
        restart(run)
        store.prepare([layout.CLAIMS, layout.WORKERS])
        until = None
        if options.seconds is not None:
            until = BEGAN + options.seconds
            _end_at(until)
        told = [int(word) for word in options.ranks.split(",")] if options.ranks else None
        outcome = run_claimed(
            directory,
            run,
            range(run.world_size) if told is None else told,
            submission.number,
            SchedulerTask(None, None),
            terms=Terms.of(submission),
            n_places=1,
            limits=limits_of(submission, run),
            bounds=Bounds(until, options.max_shards),
        )
    except EspnetError as error:
        print(f"espnet3: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    if options.json:
        done = {"shards_done": outcome.shards_done, "items_done": outcome.items_done}
        print(json.dumps({"run_dir": directory.root, "worker": outcome.worker, **done}))
    return outcome.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m espnet3.worker.join")
    parser.add_argument("run_dir")
    parser.add_argument("--trust", choices=POLICIES)
    parser.add_argument("--max-shards", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--ranks", help="separated by commas; all of the run where unset")
    parser.add_argument("--json", action="store_true")
    return parser


def _end_at(until: float) -> None:
    """Have this process end at a moment of the monotonic clock, as by a scheduler's signal."""

    def end() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    timer = threading.Timer(max(0.0, until - time.monotonic()), end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
