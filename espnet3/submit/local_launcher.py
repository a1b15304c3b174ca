"""`env: local`: one detached supervisor process for each submission."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import AsyncGenerator, Sequence

from espnet3.config.model import ParallelConfig
from espnet3.errors import SubmissionRefused
from espnet3.run_dir.worker_command import SUPERVISOR, arguments_of, command
from espnet3.schedulers import get_scheduler
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.storage.paths import as_entered
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.plan import JobShape


class LocalLauncher(Launcher):
    """Starts `espnet3.worker.supervisor`, which outlives the submitter."""

    records_jobs = True

    def __init__(self, parallel: ParallelConfig) -> None:
        self.options = dict(parallel.options)
        self._n_workers = parallel.n_workers
        self.python = shlex.quote(as_entered(sys.executable))

    async def max_array_size(self) -> int:
        return await get_scheduler("local").max_array_size()

    def job_name_prefix(self) -> str:
        return "espnet3"

    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        return [JobShape(0, n_tasks, self._n_workers, None)]  # one supervisor for all tasks

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        arguments = arguments_of(submission.worker_command)._replace(job=job.name)
        return Rendered("", command(shlex.split(self.python), (), SUPERVISOR, arguments))

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        [job] = submission.jobs
        try:
            process = await asyncio.create_subprocess_exec(
                *(await self.render(submission, job)).command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            problem = f"no process can be made for the supervisor: {error.strerror}"
            raise SubmissionRefused("local", problem) from None
        pid, words = await process.communicate()
        if process.returncode != 0:
            problem = words.decode(errors="replace").strip() or "the supervisor died at its start"
            raise SubmissionRefused("local", problem)
        yield AcceptedJob(name=job.name, job_id=pid.decode().strip())
