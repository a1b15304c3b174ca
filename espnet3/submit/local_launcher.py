"""`env: local` and `local_gpu`: one detached supervisor process for each submission."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import AsyncGenerator, Sequence

from espnet3.config.model import ParallelConfig
from espnet3.errors import ConfigError
from espnet3.redaction import shown_value
from espnet3.run_dir.worker_command import SUPERVISOR, arguments_of, command
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.gpus import NO_GPU, VARIABLE, visible_gpus
from espnet3.specs.finishing import Finisher
from espnet3.specs.models import AcceptedJob, PlannedJob, Submission
from espnet3.storage.paths import as_entered
from espnet3.submit.detached import start_detached
from espnet3.submit.launcher import Launcher, Rendered
from espnet3.submit.plan import JobShape
from espnet3.text import counted


class LocalLauncher(Launcher):
    """Starts `espnet3.worker.supervisor`, which outlives the submitter."""

    records_jobs = True

    def __init__(self, parallel: ParallelConfig) -> None:
        self._env = parallel.env
        self.options = dict(parallel.options)
        self._n_workers = parallel.n_workers
        self.python = shlex.quote(as_entered(sys.executable))

    async def max_array_size(self) -> int:
        return await get_scheduler(self._env).max_array_size()

    def job_name_prefix(self) -> str:
        return "espnet3"

    def shape_jobs(self, n_tasks: int, max_array_size: int) -> Sequence[JobShape]:
        return [JobShape(0, n_tasks, self._n_workers, None)]  # one supervisor for all tasks

    async def render(self, submission: Submission, job: PlannedJob) -> Rendered:
        arguments = arguments_of(submission.worker_command)._replace(job=job.name)
        return Rendered("", command(shlex.split(self.python), (), SUPERVISOR, arguments))

    async def launch(self, submission: Submission) -> AsyncGenerator[AcceptedJob]:
        [job] = submission.jobs
        command = (await self.render(submission, job)).command
        pid = await start_detached(self._env, "supervisor", command)
        yield AcceptedJob(name=job.name, job_id=pid)

    async def render_finisher(self, finisher: Finisher) -> Rendered:
        return Rendered("", finisher.command)

    async def launch_finisher(self, finisher: Finisher) -> str:
        return await start_detached(self._env, "finisher", finisher.command)


class LocalGpuLauncher(LocalLauncher):
    """Starts a supervisor that gives each worker a GPU of its own.

    Raises:
        ConfigError: there are fewer GPUs than workers, or none.
    """

    def __init__(self, parallel: ParallelConfig) -> None:
        super().__init__(parallel)
        devices = chosen_gpus(parallel)
        if not devices:
            raise ConfigError("parallel.env", f"'local_gpu' needs a GPU: {NO_GPU}")
        if parallel.n_workers > len(devices):
            n = len(devices)
            there = f"{counted(n, 'GPU')} {'is' if n == 1 else 'are'}"
            raise ConfigError("parallel.n_workers", f"is {parallel.n_workers}, but {there} to use")
        # The supervisor finds them in the submission.
        self.options[VARIABLE] = [*devices[: parallel.n_workers]]


def chosen_gpus(parallel: ParallelConfig) -> list[str]:
    """The GPUs that the option of dask-cuda's names, else all that are visible.

    Raises:
        ConfigError: the option names none.

    Example:
        >>> chosen_gpus(ParallelConfig(env="local_gpu", options={"CUDA_VISIBLE_DEVICES": [2, 3]}))
        ['2', '3']
    """
    said = parallel.options.get(VARIABLE)
    if said is None:
        return visible_gpus()
    devices = said.split(",") if isinstance(said, str) else said
    if not isinstance(devices, list) or not devices or not all(map(_is_device, devices)):
        raise ConfigError(
            f"parallel.options.{VARIABLE}", f"must be GPUs such as [0, 1], got {shown_value(said)}"
        )
    return [str(device).strip() for device in devices]


def _is_device(value: object) -> bool:
    # What the C library reads: a number, or the id of a GPU or of a part of one.
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return number or (isinstance(value, str) and re.fullmatch(r" *[\w/-]+ *", value) is not None)
