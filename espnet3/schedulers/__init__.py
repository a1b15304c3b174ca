"""One dialect for each batch system. Light: a worker asks it for its task index."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from espnet3.errors import ConfigError
from espnet3.schedulers.base import Scheduler

if TYPE_CHECKING:
    from espnet3.schedulers.dialect import Dialect

_LOCAL = ("local", "local_gpu")  # this host's processes, which no command tells about


def get_scheduler(name: str) -> Scheduler:
    """The scheduler for an `env` of the parallel config.

    Raises:
        ConfigError: this env has no asynchronous mode.

    Example:
        >>> get_scheduler("slurm").name
        'slurm'
    """
    if name in _LOCAL:
        from espnet3.schedulers.local_processes import LocalGpuScheduler, LocalScheduler

        return LocalScheduler() if name == "local" else LocalGpuScheduler()
    if name == "ssh":
        from espnet3.schedulers.ssh import SshScheduler

        return SshScheduler()
    from espnet3.schedulers.batch_system import BatchSystem

    return BatchSystem(get_dialect(name))


def get_dialect(name: str) -> Dialect:
    """The dialect of a batch system, by its `env` of the parallel config.

    Raises:
        ConfigError: this env is not a batch system.

    Example:
        >>> get_dialect("sge").directive
        '#$'
    """
    module = f"{__name__}.dialects.{name}"
    try:
        if name.isidentifier():
            found: Dialect = importlib.import_module(module).DIALECT
            return found
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    known = ", ".join(known_schedulers())
    raise ConfigError(
        "parallel.env", f"{name!r} has no asynchronous mode here; it works with {known}"
    )


def known_schedulers() -> list[str]:
    """Every `env` that has an asynchronous mode.

    Example:
        >>> "slurm" in known_schedulers()
        True
    """
    import pkgutil

    from espnet3.schedulers import dialects

    batch_systems = (module.name for module in pkgutil.iter_modules(dialects.__path__))
    return sorted([*_LOCAL, "ssh", *batch_systems])
