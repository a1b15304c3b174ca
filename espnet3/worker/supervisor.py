"""`env: local`, `local_gpu` and `ssh`: a detached process that runs a job's tasks, a few at a time.

It is to the local machine what a batch scheduler is to a cluster. The process that starts it
returns once the detached one has recorded itself in `submissions/NNNN.jobs.json`; it needs nothing
of the submitter afterwards, and nobody needs it to collect or resume.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before all else, since that imports the models
    from importlib import import_module

    from espnet3.worker import models

    models.load()  # as a worker does
    sys.exit(import_module("espnet3.worker.supervisor").main(sys.argv[1:]))

import contextlib
import os
import select
import signal
import subprocess
import time
from types import FrameType
from typing import BinaryIO

from espnet3.errors import EspnetError, FileMissing, FileTaken, UsageError
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory, jobs_record
from espnet3.run_dir.worker_command import SUPERVISOR, changed, parse_arguments
from espnet3.schedulers.gpus import VARIABLE, gpus_of
from espnet3.schedulers.supervised import killed_words, supervisor_log
from espnet3.specs import layout
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission, now
from espnet3.storage.permissions import opener
from espnet3.storage.retry import is_shortage
from espnet3.text import one_line
from espnet3.worker import exit_codes
from espnet3.worker.attempt import describe
from espnet3.worker.detaching import detach
from espnet3.worker.signals import HANDLED, to_handle
from espnet3.worker.spare_descriptors import Spare

KILL_WAIT = 30.0  # seconds between SIGTERM and SIGKILL, as Slurm's KillWait
PATIENCE = 600.0  # seconds without a worker for which no other one can be started
_BY_SUBMITTER = "ssh"  # where several supervisors serve a submission, its submitter records them
_PAUSES = 0.1, 5.0  # seconds between two tries to start one, at first and at most


def main(argv: list[str]) -> int:
    """Detach, record this process as the submission's job, run the tasks."""
    try:
        options = parse_arguments(argv)
        if options.run_id is None or options.job is None:
            raise UsageError("the id of its run and the name of its job are missing")
    except UsageError as error:
        print(f"{SUPERVISOR}: {error}", file=sys.stderr)
        return exit_codes.USAGE
    report = detach(SUPERVISOR, "supervisor")
    if isinstance(report, int):
        return report
    try:
        directory = RunDirectory.open(options.run, options.trust)
        path = layout.submission(options.number)
        directory.require_trusted([path])  # it names commands to run
        submission = directory.read(Submission, path)
        if submission.scheduler != _BY_SUBMITTER:
            _record(directory, submission)
    except FileTaken:
        return report.problem("another supervisor runs this submission already")
    except EspnetError as error:
        return report.problem(str(error))
    except Exception as error:  # noqa: BLE001 (its traceback would be seen by nobody)
        return report.problem(describe(error))
    report.begun()
    job = next((job for job in submission.jobs if job.name == options.job), submission.jobs[0])
    return _Tasks(directory, submission, job, options.run_id).run()


def _record(directory: RunDirectory, submission: Submission) -> None:
    me = AcceptedJob(name=submission.jobs[0].name, job_id=str(os.getpid()))
    directory.publish(jobs_record(submission.number, [me]))


def _open_log(path: str) -> BinaryIO:
    """A task's log; where it cannot be made, the task goes on without one."""
    try:
        return open(path, "ab", opener=opener)
    except OSError:
        return open(os.devnull, "ab")


class _Tasks:
    """The worker processes of a job."""

    def __init__(
        self, directory: RunDirectory, submission: Submission, job: PlannedJob, run_id: str
    ) -> None:
        self._directory, self._run_id = directory, run_id
        self._submission, self._job = submission, job
        self._running: dict[int, subprocess.Popen[bytes]] = {}  # by task
        self._gpus = gpus_of(submission)  # those that no worker has
        self._gpu_of: dict[int, str] = {}  # by task
        self._stopping = False
        self._signal: str | None = None
        self._spare = Spare()

    def run(self) -> int:
        """Run every task, at most `throttle` at a time. What ends that early is in the log."""
        try:
            code = self._run()
        except Exception as error:  # noqa: BLE001 (whatever it is; its workers go on)
            self._log(f"gave up: {describe(error)}")
            return exit_codes.FAILED
        if self._signal is not None and not self._ended_elsewhere():
            self._log(f"ended by {self._signal}")
        return code

    def _run(self) -> int:
        # Every signal, the death of a worker too, makes the pipe readable.
        self._wakeup, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in to_handle():
            signal.signal(number, self._stop)
        # What the submitter had blocked: the end of a worker would never be seen, nor a cancel.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD, *HANDLED})
        first, limit = self._job.first_task, self._job.throttle or self._job.n_tasks
        for task in range(first, first + self._job.n_tasks):
            while len(self._running) >= limit and not self._stopping:
                self._reap()
            if self._stopping or self._ended_elsewhere():
                return self._end()
            self._start_at_last(task)
        while self._running and not self._stopping:
            self._reap()
        return self._end() if self._stopping else exit_codes.DONE

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._signal = self._signal or signal.Signals(number).name

    def _ended_elsewhere(self) -> bool:
        """Whether the submission was cancelled, or its run removed, and this process not told."""
        try:
            self._directory.require_run(self._run_id)
            return self._directory.store.exists(layout.cancellation(self._submission.number))
        except (FileMissing, UsageError):
            return True
        except EspnetError:
            return False  # the storage's trouble is the workers' to tell

    def _start_at_last(self, task: int) -> None:
        """Start a task, as soon as this host has a process and memory for it.

        Raises:
            OSError, MemoryError: it had none for long, and no worker of this run would free any.
        """
        pause, longest = _PAUSES
        deadline = time.monotonic() + PATIENCE
        said = False
        while not self._stopping:
            try:
                return self._start(task)
            except (OSError, MemoryError) as error:
                if not is_shortage(error):
                    self._log(f"cannot be started: {describe(error)}", task)
                    return None
                if self._running:
                    deadline = time.monotonic() + PATIENCE
                elif time.monotonic() > deadline:
                    raise
                if not said:
                    self._log(f"task {task} cannot be started yet: {describe(error)}")
                said = True
            self._reap(pause)
            pause = min(2 * pause, longest)
            if self._ended_elsewhere():
                self._stopping = True
        return None

    def _start(self, task: int) -> None:
        environ = None
        if self._gpus:
            environ = {**os.environ, VARIABLE: self._gpus[0]}
        with _open_log(self._path_of_log(task)) as log:
            self._running[task] = subprocess.Popen(
                changed(self._submission.worker_command, job=self._job.name, task=task),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
            )
        if environ is not None:
            self._gpu_of[task] = self._gpus.pop(0)

    def _path_of_log(self, task: int | None) -> str:
        name = supervisor_log(self._job)
        if task is not None:
            name = self._job.log.replace("{index}", str(task - self._job.first_task))
        return os.path.join(self._submission.log_directory, name)

    def _log(self, words: str, task: int | None = None) -> None:
        """Say something in a task's log or in one of the supervisor's own, if that can be done."""
        line = f"{now():%Y-%m-%d %H:%M:%S%z} {SUPERVISOR}: {one_line(scrubbed(words))}\n"
        with contextlib.suppress(OSError), self._spare.room():
            path = self._path_of_log(task)
            with open(path, "ab", opener=opener) as log:
                log.write(line.encode(errors="backslashreplace"))

    def _reap(self, seconds: float | None = None) -> None:
        """Wait for a signal, the death of a worker being one; see which workers have ended.

        Args:
            seconds: to wait at most.
        """
        if select.select([self._wakeup], [], [], seconds)[0]:
            os.read(self._wakeup, 4096)
        self._forget_ended()

    def _forget_ended(self) -> None:
        """Forget the workers that ended, and say which of them a signal has ended: nobody else can.

        A worker that is asked to end, or made to, is not spoken of.
        """
        ended = {task: code for task, p in self._running.items() if (code := p.poll()) is not None}
        for task, code in ended.items():
            del self._running[task]
            if task in self._gpu_of:
                self._gpus.append(self._gpu_of.pop(task))
            asked = self._stopping and -code in (signal.SIGTERM, signal.SIGKILL)
            if code < 0 and not asked:
                self._log(killed_words(task, -code))

    def _end(self) -> int:
        deadline = time.monotonic() + KILL_WAIT
        processes = [*self._running.values()]
        for process in processes:
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        for process in processes:
            process.kill()
            process.wait()
        self._forget_ended()
        return exit_codes.INTERRUPTED
