"""`env: local`: detached processes of this host, found again in its process table.

A submission is one job: see `espnet3.schedulers.supervised`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from espnet3.errors import SchedulerUnavailable, UsageError
from espnet3.run_dir.processes import is_of, user_ids
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.run_dir.worker_command import SUPERVISOR, WORKER, arguments_of
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.gpus import NO_GPU, visible_gpus
from espnet3.schedulers.supervised import begun_tasks, states_of_job, supervisor_log
from espnet3.specs.models import AcceptedJob, PlannedJob
from espnet3.text import plural

if TYPE_CHECKING:
    import psutil

START_PATIENCE = 0.5  # seconds that a task may take from its log to its process
_FORKED = 0x40  # PF_FORKNOEXEC of Linux
T = TypeVar("T")


class LocalScheduler(Scheduler):
    """Detached processes on the host of the submitter."""

    name = "local"
    passes_environment = True

    # The supervisor names the task on the command line, and starts none again.

    def log_of_all(self, job: PlannedJob) -> str | None:
        return supervisor_log(job)

    async def max_array_size(self) -> int:
        return 2**31

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        return await _in_thread(self._query, submissions)

    def _query(self, submissions: Sequence[KnownSubmission]) -> dict[TaskKey, TaskState]:
        # A supervisor that came too late to record itself may still be about to say so.
        submissions = [known for known in submissions if not known.recorded or known.recorded.jobs]
        deadline = time.monotonic() + START_PATIENCE
        while True:
            states, starting = _look(submissions)
            if not starting or time.monotonic() > deadline:
                return states
            time.sleep(0.02)

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        processes = await _in_thread(_processes, user_ids(user))
        pids: dict[str, str] = {}
        # The supervisor's counts; a worker may have lost it.
        for name, task in sorted(processes, key=lambda found: found[1] is not None):
            pids.setdefault(name, str(processes[name, task].pid))
        return [AcceptedJob(name=j.name, job_id=pids[j.name]) for j in planned if j.name in pids]

    async def find_working_in(self, run_dir: str, user: str) -> list[AcceptedJob]:
        found = await _in_thread(_processes, user_ids(user), run_dir)
        first: dict[str, str] = {}
        for name, task in sorted(found, key=lambda entry: entry[1] is not None):
            first.setdefault(name, str(found[name, task].pid))
        return [AcceptedJob(name=name, job_id=pid) for name, pid in first.items()]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        await _in_thread(self._cancel, {job.name for job in jobs})

    def _cancel(self, names: set[str]) -> None:
        # The supervisor first, so that it starts nothing more; then workers that lost theirs.
        import psutil

        own = _processes(frozenset({os.geteuid()}))
        found = [(task, process) for (name, task), process in own.items() if name in names]
        for _, process in sorted(found, key=lambda entry: entry[0] is not None):
            with contextlib.suppress(psutil.NoSuchProcess):  # its pid may be another one's by now
                process.send_signal(signal.SIGTERM)


class LocalGpuScheduler(LocalScheduler):
    """The same, where each process has a GPU of its own."""

    name = "local_gpu"

    async def version(self) -> str:
        devices = await _in_thread(visible_gpus)
        if not devices:
            raise SchedulerUnavailable(self.name, NO_GPU)
        return f"{self.name}, {plural(len(devices), 'GPU')} {', '.join(devices)}"


def _look(submissions: Sequence[KnownSubmission]) -> tuple[dict[TaskKey, TaskState], bool]:
    """The states of all tasks, and whether one may be about to start that seems to have ended."""
    for submission, recorded in submissions:
        _require_this_host(recorded.recorded_by.host if recorded else submission.submitter.host)
    begun = {s.submission.number: begun_tasks(s.submission, _job(s)) for s in submissions}
    users = {user for known in submissions for user in user_ids(known.submission.submitter.user)}
    processes = {own: process.pid for own, process in _processes(frozenset(users)).items()}
    states: dict[TaskKey, TaskState] = {}
    starting = False
    for known in submissions:
        submission = known.submission
        own, last = states_of_job(submission, _job(known), begun[submission.number], processes)
        states |= {(submission.number, task): state for task, state in own.items()}
        starting |= last is not None
    return states, starting


def _job(known: KnownSubmission) -> PlannedJob:
    return known.submission.jobs[0]


def _processes(
    users: frozenset[int], run_dir: str | None = None
) -> dict[tuple[str, int | None], psutil.Process]:
    """Job name and task (None: the supervisor) -> process, of all of some users on this host.

    Args:
        users: their ids.
        run_dir: where they are to work; anywhere where unset.
    """
    import psutil

    found: dict[tuple[str, int | None], psutil.Process] = {}
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.info["status"] == psutil.STATUS_ZOMBIE or not {SUPERVISOR, WORKER} & set(words):
            continue
        module = SUPERVISOR if SUPERVISOR in words else WORKER
        try:
            told = arguments_of(words, module)
        except UsageError:  # another program that was given our words
            continue
        if told.job is None or run_dir not in (None, told.run) or not is_of(process, users):
            continue
        if module == SUPERVISOR:
            # What is starting it, and what it is starting, look the same until they exec.
            with contextlib.suppress(ProcessLookupError):
                if os.getsid(process.pid) == process.pid:
                    found[told.job, None] = process
        elif told.task is not None and not _is_forked(process.pid):
            found[told.job, told.task] = process
    return found


def _is_forked(pid: int) -> bool:
    """Whether it is a child that still runs its parent's program: a helper of `forward`.

    It has the words of the worker's command, and may outlive the worker.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            flags = file.read().rpartition(b")")[2].split()[6]
    except OSError:
        return False  # it has ended, or this is not Linux
    return bool(int(flags) & _FORKED)


async def _in_thread(function: Callable[..., T], *arguments: Any) -> T:
    import asyncio  # workers, which import this module, never come here

    return await asyncio.to_thread(function, *arguments)


def _require_this_host(host: str) -> None:
    here = os.uname().nodename
    if host != here:
        raise SchedulerUnavailable(
            "local", f"the run's processes live on {host}, this is {here}; ask there"
        )
