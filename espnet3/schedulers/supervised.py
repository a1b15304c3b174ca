"""What `env: local`, `local_gpu` and `ssh` share: tasks that a supervisor starts, and their logs.

A job is one supervisor process (`espnet3.worker.supervisor`) that starts a worker process for each
of its tasks, in order. A task's log exists from the moment when the task is started.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Collection, Mapping

from espnet3.run_dir.worker_command import SUPERVISOR
from espnet3.schedulers.base import TaskState
from espnet3.specs.models import PlannedJob, Submission
from espnet3.storage.permissions import regular
from espnet3.text import one_line

Processes = Mapping[tuple[str, int | None], int]
"""Job name and task (None: the supervisor) -> pid."""

_MOST_SAID = 1 << 24  # bytes that are read of a supervisor's log, its last ones
# As text, since workers import this module and need it never.
_KILLED = rf"\S+ \S+ {SUPERVISOR}: task (\d{{1,9}}) was killed by signal (\d{{1,3}})\b.*"


def supervisor_log(job: PlannedJob) -> str:
    """The name of a supervisor's log; there is one only where it had something to say."""
    return job.log.replace("{index}", "supervisor")


def killed_words(task: int, number: int) -> str:
    """What a supervisor's log says of a worker that a signal has ended; `status` reads it there.

    Example:
        >>> killed_words(3, 9)
        'task 3 was killed by signal 9 (SIGKILL)'
    """
    name = next((f" ({known.name})" for known in signal.Signals if known == number), "")
    return f"task {task} was killed by signal {number}{name}"


def begun_tasks(submission: Submission, job: PlannedJob) -> set[int]:
    """The tasks of a job that have a log."""
    before, _, after = job.log.partition("{index}")
    try:
        names = set(os.listdir(submission.log_directory))
    except OSError:
        return set()
    return {job.first_task + i for i in range(job.n_tasks) if f"{before}{i}{after}" in names}


def states_of_job(
    submission: Submission, job: PlannedJob, begun: Collection[int], processes: Processes
) -> tuple[dict[int, TaskState], int | None]:
    """The states of a job's tasks.

    Args:
        submission: the submission.
        job: one of its jobs.
        begun: the tasks that had a log before the processes were looked for: a process that is
            there later, but not its log, would seem to have ended.
        processes: those that live.

    Returns:
        Task -> state, and the task that seems to have ended and may be about to start; its log is
        made just before its process, so only the one that was begun last can be that.
    """
    name = job.name
    supervised = (name, None) in processes
    queued = TaskState("queued", "", f"at most {job.throttle or job.n_tasks} at a time")
    killed, last_words = _said(submission, job)
    why = f"the supervisor of its submission has ended{': ' if last_words else ''}{last_words}"
    never = None if supervised else TaskState("ended", "", why, begun=False)
    states: dict[int, TaskState] = {}
    starting = None
    last = max(begun, default=None)
    for task in range(job.first_task, job.first_task + job.n_tasks):
        if (name, task) in processes:
            state = TaskState("running", f"pid {processes[name, task]}")
        elif task in killed:
            state = TaskState("ended", "", f"signal {killed[task]}", killed[task])
        elif task in begun:
            state = TaskState("ended")
            if supervised and task == last:
                starting = task
        else:
            state = never or queued
        states[task] = state
    return states, starting


def _said(submission: Submission, job: PlannedJob) -> tuple[dict[int, int], str]:
    """What the log of a supervisor says, if there is one.

    Returns:
        Task -> number of the signal that has ended its worker; and its last words about itself.
    """
    path = os.path.join(submission.log_directory, supervisor_log(job))
    try:
        with open(path, "rb", opener=regular) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_SAID))
            lines = file.read(_MOST_SAID).decode(errors="replace").splitlines()
    except OSError:
        return {}, ""
    killed: dict[int, int] = {}
    last_words = ""
    for line in lines:
        found = re.fullmatch(_KILLED, line)
        if found is None:
            last_words = line
        else:
            killed[int(found[1])] = int(found[2])
    return killed, one_line(last_words)
