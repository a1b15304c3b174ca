"""The process of a finisher: started by a scheduler or detached, and again where it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from types import FrameType
from typing import NoReturn

from espnet3.errors import EspnetError, FileMissing, Untrusted, UsageError
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.finishers import ON_THIS_HOST, queued_record
from espnet3.run_dir.worker_command import FINISHER, WorkerArguments, parse_arguments
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher
from espnet3.storage.permissions import opener
from espnet3.worker import exit_codes
from espnet3.worker.attempt import describe
from espnet3.worker.detaching import detach

TRIES = 3  # that a finisher which dies is given
_PAUSE = 10.0  # seconds between two of them
_LOOK = 0.5  # seconds between two looks at the processes of this host


def main(argv: list[str]) -> int:
    """Be a finisher.

    Args:
        argv: `RUN NUMBER` and options; see `espnet3.run_dir.worker_command`.

    Returns:
        An exit code of `espnet3.worker.exit_codes`.
    """
    try:
        options = parse_arguments(argv)
        directory, finisher = _open(options)
    except EspnetError as error:
        print(f"{FINISHER}: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    if finisher.scheduler not in ON_THIS_HOST:
        return _again_and_again(options)
    report = detach(FINISHER, "finisher")
    if isinstance(report, int):
        return report
    try:
        directory, finisher = _open(options)  # connections to a store do not survive a fork
        directory.publish(queued_record(finisher.number, str(os.getpid())))
        _log_to(os.path.join(finisher.log_directory, finisher.job.log.replace("{index}", "0")))
    except EspnetError as error:
        return report.problem(str(error))
    except Exception as error:  # noqa: BLE001 (its traceback would be seen by nobody)
        return report.problem(describe(error))
    report.begun()
    return _again_and_again(options)


def _open(options: WorkerArguments) -> tuple[RunDirectory, Finisher]:
    """The directory and the intent, which a node may see later than its scheduler."""
    if options.run_id is None:
        raise UsageError("the id of its run is missing")
    directory = RunDirectory.open(options.run, options.trust)
    path = layout.finisher(options.number)
    for file in (layout.RUN, path):
        directory.store.await_file(file)
    directory.require_trusted([path])
    directory.require_run(options.run_id)
    return directory, directory.read(Finisher, path)


def _log_to(path: str) -> None:
    """What it says from now on goes to its log; where none can be made, nowhere."""
    try:
        log = opener(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    except OSError:
        return
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)


def _again_and_again(options: WorkerArguments) -> int:
    """Let a child do the work, and another one where it dies or the storage fails.

    Whoever ends this process means it: the child is ended too.
    """
    code = exit_codes.FAILED
    for n in range(TRIES):
        child = os.fork()
        if child == 0:
            _exit_with(options)
        with_child = _Forwarding(child)
        code = with_child.wait()
        if code in (exit_codes.DONE, exit_codes.USAGE) or with_child.asked:
            return code
        if n + 1 < TRIES and with_child.is_asked_within(_PAUSE):
            return code
    return code


class _Forwarding:
    """Hands the signals that ask for an end to the child, while there is one."""

    def __init__(self, child: int) -> None:
        self._child: int | None = child
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._forward)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._child is not None:
            os.kill(self._child, number)

    def is_asked_within(self, seconds: float) -> bool:
        """Whether somebody asks for an end before another child is started."""
        time.sleep(seconds)
        return self.asked

    def wait(self) -> int:
        if self._child is None:
            raise ChildProcessError
        # Until it is reaped its number is nobody else's.
        os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT)
        child, self._child = self._child, None
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _exit_with(options: WorkerArguments) -> NoReturn:
    """Do the work, and end this process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    code = exit_codes.FAILED
    try:
        code = _work(options)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait_for_supervisors(directory: RunDirectory) -> None:
    """Wait until those of this host have ended that have recorded themselves."""
    from espnet3.run_dir.processes import is_alive

    while True:
        known, _ = directory.submissions()
        recorders = {each.recorded.recorded_by for each in known if each.recorded is not None}
        if not any(is_alive(one) and one != known[-1].submission.submitter for one in recorders):
            return
        time.sleep(_LOOK)


def _work(options: WorkerArguments) -> int:
    from espnet3.worker.main import log_to_stderr

    log_to_stderr()
    try:
        directory, finisher = _open(options)
        if finisher.scheduler in ON_THIS_HOST:
            _wait_for_supervisors(directory)
        # What is large is imported when it is needed.
        from espnet3.finish.finisher import Waits, finish

        run = directory.trusted_run([layout.finisher(options.number)])
        waits = Waits(live=None) if finisher.scheduler in ON_THIS_HOST else Waits()
        asyncio.run(finish(directory, run, finisher, waits))
    except (UsageError, FileMissing, Untrusted) as error:
        print(f"{FINISHER}: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.USAGE
    except EspnetError as error:
        print(f"{FINISHER}: {scrubbed(str(error))}", file=sys.stderr)
        return exit_codes.FAILED
    return exit_codes.DONE
