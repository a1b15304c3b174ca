"""`env: ssh`: one detached supervisor process on each host."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import AsyncGenerator, Sequence

from espnet3.config.model import ParallelConfig, did_you_mean
from espnet3.errors import ConfigError, SchedulerUnavailable, SubmissionRefused
from espnet3.redaction import shown_value
from espnet3.run_dir.worker_command import SUPERVISOR, arguments_of, command
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.commands import NoAnswer
from espnet3.schedulers.ssh import hosts_of
from espnet3.schedulers.ssh_commands import (
    command_for,
    is_host,
    on_each,
    require_all,
    run_script,
)
from espnet3.specs import layout
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.storage.paths import as_entered
from espnet3.storage.retry import PATIENCE
from espnet3.submit.detached import start_detached
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.plan import JobShape
from espnet3.text import one_line

# Of Dask's SSHCluster, and of no account to detached workers.
_OF_DASK = frozenset({"worker_options", "scheduler_options", "worker_class", "worker_module"})
_PROBLEM = "problem "


class SshLauncher(Launcher):
    """Starts `espnet3.worker.supervisor` on hosts, where it outlives the connection."""

    def __init__(self, parallel: ParallelConfig) -> None:
        self._n_workers, self._timeout = parallel.n_workers, parallel.submit_timeout
        hosts = chosen_hosts(parallel)
        _check_names(parallel)
        self._hosts = hosts[: parallel.n_workers]
        self.options = {"hosts": [*self._hosts]}
        python = parallel.options.get("remote_python")
        if python is not None:
            try:
                words = shlex.split(python) if isinstance(python, str) else None
            except ValueError:
                words = None
            if not words:
                problem = f"must be a command such as /opt/bin/python, got {shown_value(python)}"
                raise ConfigError("parallel.options.remote_python", problem)
            self.options["remote_python"] = python
        self.python = str(python or shlex.quote(as_entered(sys.executable)))

    async def require_reachable(self) -> None:
        own = dict.fromkeys(self._hosts)
        _, wrong = await on_each((host, run_script(host, "")) for host in own)
        require_all(wrong.values())

    async def max_array_size(self) -> int:
        return await get_scheduler("ssh").max_array_size()

    def job_name_prefix(self) -> str:
        return "espnet3"

    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        n = min(len(self._hosts), n_tasks)
        width = min(self._n_workers, n_tasks)  # so that as many tasks as workers all run at once
        jobs = []
        for j in range(n):
            first, last = n_tasks * j // n, n_tasks * (j + 1) // n
            share = width * (j + 1) // n - width * j // n
            jobs.append(JobShape(first, last - first, share, None))
        return jobs

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        host = hosts_of(submission)[job.name]
        return Rendered(_script(self.python, submission, job), command_for(host, job.name))

    async def render_finisher(self, finisher: Finisher) -> Rendered:
        return Rendered("", finisher.command)

    async def launch_finisher(self, finisher: Finisher) -> str:
        return await start_detached("ssh", "finisher", finisher.command)

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        hosts = hosts_of(submission)
        for job in submission.jobs:
            yield await self._start(submission, job, hosts[job.name])

    async def _start(self, submission: Submission, job: PlannedJob, host: str) -> AcceptedJob:
        script = _script(self.python, submission, job)
        try:
            said = await run_script(host, script, name=job.name, timeout=self._timeout)
        except NoAnswer as error:
            silent = str(error).removeprefix("ssh: ")
            raise SchedulerUnavailable(
                "ssh", f"{silent}; resume the run later, or raise parallel.submit_timeout"
            ) from None
        problem = re.search(rf"^{_PROBLEM}(.*)", said, re.MULTILINE | re.DOTALL)
        if problem is not None:
            words = one_line(" ".join(problem[1].split()), 300)
            raise SubmissionRefused("ssh", f"{host}: {words or 'the supervisor died at its start'}")
        found = re.search(r"(\d+)\s*\Z", said)
        if found is None:
            raise SubmissionRefused("ssh", f"{host}: the supervisor died at its start")
        return AcceptedJob(name=job.name, job_id=f"{host}:{found[1]}")


def chosen_hosts(parallel: ParallelConfig) -> list[str]:
    """The hosts of the option `hosts`.

    Raises:
        ConfigError: there are none, or one has no host's name.

    Example:
        >>> chosen_hosts(ParallelConfig(env="ssh", options={"hosts": ["gpu1", "ana@gpu2"]}))
        ['gpu1', 'ana@gpu2']
    """
    hosts = parallel.options.get("hosts")
    if hosts is None:
        raise ConfigError("parallel.options.hosts", "is missing; give a list of hosts")
    if not isinstance(hosts, list) or not hosts:
        problem = f"must be a list of hosts, got {shown_value(hosts)}"
        raise ConfigError("parallel.options.hosts", problem)
    for position, host in enumerate(hosts):
        if not is_host(host):
            raise ConfigError(
                f"parallel.options.hosts.{position}",
                f"must be a host as in gpu1 or ana@gpu1, got {shown_value(host)}; ports and keys "
                "belong into ssh's configuration (~/.ssh/config)",
            )
    return [str(host) for host in hosts]


def _check_names(parallel: ParallelConfig) -> None:
    known = {"hosts", "remote_python"}
    for name in parallel.options:
        if name == "connect_options":
            raise ConfigError(
                "parallel.options.connect_options",
                "is for asyncssh, in the synchronous mode; the asynchronous one takes ports, users "
                "and keys from ssh's configuration (~/.ssh/config)",
            )
        if name not in known | _OF_DASK:
            hint = did_you_mean(name, known)
            raise ConfigError(f"parallel.options.{name}", f"env: ssh has no such option{hint}")


def _script(python: str, submission: Submission, job: PlannedJob) -> str:
    """What starts the supervisor; it waits, as a worker does, for a directory that is seen late."""
    arguments = arguments_of(submission.worker_command)._replace(job=job.name)
    words = shlex.join(command(shlex.split(python), (), SUPERVISOR, arguments))
    first = shlex.quote(shlex.split(python)[0])
    lines = [f"fail() {{ printf '%s\\n' \"{_PROBLEM}$1\"; exit 0; }}"]
    if "://" not in arguments.run:
        run = shlex.quote(arguments.run)
        intent = shlex.quote(layout.submission(submission.number))
        unseen = shlex.quote(
            f"{arguments.run} is not seen there, or is another run's; every host must see the run "
            "directory by this path"
        )
        lines.append(
            f"cd / && left={int(PATIENCE)}\n"
            f"until grep -q -F -e {arguments.run_id} {run}/{layout.RUN} 2>/dev/null "
            f"&& [ -f {run}/{intent} ]; do\n"
            f'  [ "$left" -gt 0 ] || fail {unseen}\n'
            "  left=$((left - 1)); sleep 1\n"
            "done"
        )
    lines += [
        f"command -v {first} >/dev/null 2>&1 || fail {first}' is not there'",
        f'said=$({words} </dev/null 2>&1) || fail "$said"',
        "printf '%s\\n' \"$said\"",
    ]
    return "\n".join(lines)
