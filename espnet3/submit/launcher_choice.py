"""Which launcher serves which `env`."""

from __future__ import annotations

from typing import Any

from espnet3.config.model import ParallelConfig
from espnet3.submit.launcher import Launcher


def make_launcher(parallel: ParallelConfig, runner: type[Any]) -> Launcher:
    """The launcher for a parallel config.

    Args:
        parallel: the validated config.
        runner: the runner class; its hook `customize_job_cls` is applied.

    Raises:
        ConfigError: the env has no asynchronous mode, or an option is wrong.
    """
    if parallel.env == "local":
        from espnet3.submit.local_launcher import LocalLauncher

        return LocalLauncher(parallel)
    if parallel.env == "local_gpu":
        from espnet3.submit.local_launcher import LocalGpuLauncher

        return LocalGpuLauncher(parallel)
    if parallel.env == "ssh":
        from espnet3.submit.ssh_launcher import SshLauncher

        return SshLauncher(parallel)
    from espnet3.submit.jobqueue import JobQueueLauncher

    return JobQueueLauncher(parallel, runner)


def with_usual_width(parallel: ParallelConfig) -> ParallelConfig:
    """The config, where it does not say `n_workers` with one worker for each GPU or host.

    Example:
        >>> with_usual_width(ParallelConfig(env="local")).n_workers
        1
    """
    if "n_workers" in parallel.model_fields_set:
        return parallel
    if parallel.env == "local_gpu":
        from espnet3.submit.local_launcher import chosen_gpus

        width = len(chosen_gpus(parallel))
    elif parallel.env == "ssh":
        from espnet3.submit.ssh_launcher import chosen_hosts

        width = len(chosen_hosts(parallel))
    else:
        return parallel
    return parallel.model_copy(update={"n_workers": max(1, width)})
