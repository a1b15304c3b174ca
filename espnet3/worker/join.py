"""`python -m espnet3.worker.join RUN_DIR`: a worker that joins a run from anywhere.

It claims what is free, as the workers of a dynamic submission do, and shares what they are at. Its
attempts count as those of the newest submission. Standard streams are the terminal's, so what it is
told at length, and what it tells in the end, are files that it inherits.
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
from espnet3.worker.code import enter_code
from espnet3.worker.computing import limits_of
from espnet3.worker.dynamic import Bounds, run_claimed
from espnet3.worker.main import log_to_stderr
from espnet3.worker.process_restore import restart
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
        if store.exists(layout.cancellation(submission.number)):  # it would end at its first sign
            number = f"{submission.number:04d}"
            problem = f"submission {number} was cancelled; resume it, and join then"
            raise RunDirectoryError(directory.root, problem)
        restart(run)
        run = enter_code(directory, run, submission)
        for inherited in (options.ranks_from, options.tell):
            if inherited is not None:
                os.set_inheritable(inherited, False)  # not for what `forward` starts
        store.prepare([layout.CLAIMS, layout.WORKERS])
        until = None if options.seconds is None else BEGAN + options.seconds
        time_up = _TimeUp(until)
        told = _read_ranks(options.ranks_from)
        outcome = run_claimed(
            directory,
            run,
            range(run.world_size) if told is None else told,
            submission.number,
            SchedulerTask(None, None),
            terms=Terms.of(submission)._replace(in_order=told is not None),
            n_places=1,
            limits=limits_of(submission, run),
            bounds=Bounds(until, options.max_shards),
            asks_gpus=submission.usage,
        )
    except EspnetError as error:
        print(f"espnet3: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    if options.tell is not None:
        done = {"shards_done": outcome.shards_done, "items_done": outcome.items_done}
        os.write(options.tell, json.dumps({"worker": outcome.worker, **done}).encode())
    ended_in_time = outcome.code == exit_codes.INTERRUPTED and time_up.has_told
    return exit_codes.DONE if ended_in_time else outcome.code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m espnet3.worker.join")
    parser.add_argument("run_dir")
    parser.add_argument("--trust", choices=POLICIES)
    parser.add_argument("--max-shards", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--ranks-from", type=int, metavar="FD", help="a JSON list; empty for all")
    parser.add_argument("--tell", type=int, metavar="FD", help="gets what was done, as JSON")
    return parser


def _read_ranks(descriptor: int | None) -> list[int] | None:
    if descriptor is None or not (size := os.fstat(descriptor).st_size):
        return None
    # Several workers have this one file, and so its one position.
    ranks: list[int] = json.loads(os.pread(descriptor, size, 0))
    return ranks


class _TimeUp:
    """Has this process end at a moment of the monotonic clock, as by a scheduler's signal.

    Attributes:
        has_told: whether it has been told to end.
    """

    def __init__(self, until: float | None) -> None:
        self.has_told = False
        if until is not None:
            timer = threading.Timer(max(0.0, until - time.monotonic()), self._end)
            timer.daemon = True
            timer.start()

    def _end(self) -> None:
        # A worker that has not begun, or is through, need not be told; the signal would kill it.
        if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            self.has_told = True
            os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
