"""One dialect object for each scheduler. Light: a worker asks it for its task index."""

from __future__ import annotations

import importlib

from espnet3.errors import ConfigError
from espnet3.schedulers.base import Scheduler


def get_scheduler(name: str) -> Scheduler:
    """The dialect for an `env` of the parallel config.

    Raises:
        ConfigError: this env has no asynchronous mode.

    Example:
        >>> get_scheduler("slurm").name
        'slurm'
    """
    found = _dialect(name) if name.isidentifier() else None
    if found is None:
        known = ", ".join(known_schedulers())
        raise ConfigError(
            "parallel.env", f"{name!r} has no asynchronous mode here; it works with {known}"
        )
    return found()


def known_schedulers() -> list[str]:
    """Every `env` that has an asynchronous mode.

    Example:
        >>> "slurm" in known_schedulers()
        True
    """
    import pkgutil

    from espnet3.schedulers import dialects

    every = (m.name for path in (__path__, dialects.__path__) for m in pkgutil.iter_modules(path))
    return sorted(filter(_dialect, every))


def _dialect(name: str) -> type[Scheduler] | None:
    """What a module makes of a batch system, or of this host; None where there is none."""
    for module in (f"{__name__}.dialects.{name}", f"{__name__}.{name}"):
        try:
            found: type[Scheduler] | None
            found = getattr(importlib.import_module(module), "SCHEDULER", None)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            continue
        return found
    return None
