"""`env: ssh`: detached processes of several hosts, which see the run directory.

A job is one supervisor on one host, as with `env: local`. Each question is one `ssh` per host; what
lives is found by the unique names of jobs on its command line, so a pid that was used again is
never taken for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.processes import is_of, user_ids
from espnet3.run_dir.submissions import KnownSubmission
from espnet3.schedulers.base import Scheduler, TaskKey, TaskState, Wanted
from espnet3.schedulers.ssh_commands import (
    Found,
    command_for,
    end_processes,
    on_each,
    processes_on,
    require_all,
    run_script,
)
from espnet3.schedulers.supervised import begun_tasks, states_of_job, supervisor_log
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission

_START_PATIENCE = 0.5  # seconds that a task may take from its log to its process


class SshScheduler(Scheduler):
    """Detached processes on the hosts that the option `hosts` names."""

    name = "ssh"

    def log_of_all(self, job: PlannedJob) -> str | None:
        return supervisor_log(job)

    async def max_array_size(self) -> int:
        return 2**31

    async def version(self) -> str:
        from espnet3.schedulers.commands import ask

        return (await ask(self.name, ["ssh", "-V"])).err.strip()

    async def machines(self, options: Mapping[str, object]) -> dict[str, str]:
        hosts = [host for host in _listed(options.get("hosts")) if isinstance(host, str)]
        _, wrong = await on_each((host, run_script(host, "")) for host in dict.fromkeys(hosts))
        return {
            host: wrong.get(host, "").removeprefix(f"{host}: ") for host in dict.fromkeys(hosts)
        }

    async def query(
        self, submissions: Sequence[KnownSubmission], wanted: Wanted | None = None
    ) -> dict[TaskKey, TaskState]:
        deadline = time.monotonic() + _START_PATIENCE
        while True:
            states, starting = await _look(submissions, wanted)
            if not starting or time.monotonic() > deadline:
                return states
            await asyncio.sleep(_START_PATIENCE)

    async def find(self, planned: Iterable[PlannedJob], user: str) -> list[AcceptedJob]:
        await self.version()  # no name of a job tells its host
        return []

    async def find_of(self, submission: Submission, user: str) -> list[AcceptedJob]:
        hosts = hosts_of(submission)
        own = dict.fromkeys(hosts.values())
        answers, wrong = await on_each((host, processes_on(host, [user])) for host in own)
        require_all(wrong.values())
        pids: dict[str, int] = {}
        for name, host in hosts.items():
            # The supervisor's counts; a worker may have lost it.
            for one in sorted(answers[host], key=lambda found: found.task is not None):
                if one.job == name:
                    pids.setdefault(name, one.pid)
        return [AcceptedJob(name=n, job_id=f"{hosts[n]}:{pid}") for n, pid in pids.items()]

    async def cancel(self, jobs: Iterable[AcceptedJob]) -> None:
        names: dict[str, set[str]] = {}
        for job in jobs:
            names.setdefault(job.job_id.rpartition(":")[0], set()).add(job.name)

        async def end(host: str) -> None:
            found = await processes_on(host)
            await end_processes(host, [one for one in found if one.job in names[host]])

        _, wrong = await on_each((host, end(host)) for host in names)
        require_all(wrong.values())  # the others were asked to end

    def is_submitting(self, submission: Submission) -> bool:
        import psutil  # workers, which may import this module, never come here

        last = {command_for("host", job.name)[-1] for job in submission.jobs}
        users = user_ids(submission.submitter.user)
        return any(
            last.intersection((process.info["cmdline"] or [])[-1:]) and is_of(process, users)
            for process in psutil.process_iter(["cmdline"])
        )


def hosts_of(submission: Submission) -> dict[str, str]:
    """Job name -> its host.

    Raises:
        SchedulerUnavailable: the submission does not tell.
    """
    hosts = _listed(submission.options.get("hosts"))
    if len(hosts) < len(submission.jobs):
        raise SchedulerUnavailable(
            "ssh",
            f"submission {submission.number:04d} does not name the hosts of its jobs; was the file "
            "edited by hand?",
        )
    return {job.name: str(host) for job, host in zip(submission.jobs, hosts, strict=False)}


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _jobs_to_ask(known: KnownSubmission, wanted: Wanted | None) -> list[PlannedJob]:
    """The jobs that may live and have tasks of interest; what was refused lives nowhere."""
    submission, ids = known.submission, known.job_ids()
    jobs = [job for job in submission.jobs if known.recorded is None or job.name in ids]
    if wanted is None:
        return jobs
    tasks = set(wanted.get(submission.number, ()))
    return [
        job
        for job in jobs
        if not tasks.isdisjoint(range(job.first_task, job.first_task + job.n_tasks))
    ]


async def _look(
    submissions: Sequence[KnownSubmission], wanted: Wanted | None
) -> tuple[dict[TaskKey, TaskState], bool]:
    """The states of the tasks, and whether one may be about to start that seems to have ended."""
    asked: list[tuple[Submission, PlannedJob, str]] = []
    users: dict[str, set[str]] = {}
    for known in submissions:
        hosts = hosts_of(known.submission)
        for job in _jobs_to_ask(known, wanted):
            asked.append((known.submission, job, hosts[job.name]))
            users.setdefault(hosts[job.name], set()).add(known.submission.submitter.user)

    def logs() -> list[set[int]]:
        return [begun_tasks(submission, job) for submission, job, _ in asked]

    begun = await asyncio.to_thread(logs)  # before the processes: see `states_of_job`
    answers, wrong = await on_each((host, processes_on(host, users[host])) for host in users)
    require_all(wrong.values())

    def conclude() -> tuple[dict[TaskKey, TaskState], bool]:
        states: dict[TaskKey, TaskState] = {}
        starting = False
        for (submission, job, host), own in zip(asked, begun, strict=True):
            processes = _by_task(answers[host])
            found, last = states_of_job(submission, job, own, processes)
            states |= {(submission.number, task): state for task, state in found.items()}
            unfinished = wanted is None or last in wanted.get(submission.number, ())
            starting |= last is not None and unfinished
        return states, starting

    return await asyncio.to_thread(conclude)


def _by_task(found: Iterable[Found]) -> dict[tuple[str, int | None], int]:
    return {(one.job, one.task): one.pid for one in found}
