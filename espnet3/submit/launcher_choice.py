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
    from espnet3.submit.jobqueue import JobQueueLauncher

    return JobQueueLauncher(parallel, runner)
