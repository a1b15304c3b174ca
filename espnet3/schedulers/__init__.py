"""One dialect object for each scheduler. Light: a worker asks it for its task index."""

from __future__ import annotations

import importlib

from espnet3.schedulers.base import Scheduler
from espnet3.specs.errors import ConfigError

_MODULES = {"local": "LocalScheduler", "slurm": "SlurmScheduler"}


def get_scheduler(name: str) -> Scheduler:
    """The dialect for an `env` of the parallel config.

    Raises:
        ConfigError: this env has no asynchronous mode.

    Example:
        >>> get_scheduler("slurm").name
        'slurm'
    """
    if name not in _MODULES:
        raise ConfigError(
            "parallel.env",
            f"{name!r} has no asynchronous mode here; it works with {', '.join(_MODULES)}",
        )
    module = importlib.import_module(f"espnet3.schedulers.{name}")
    scheduler: Scheduler = getattr(module, _MODULES[name])()
    return scheduler
