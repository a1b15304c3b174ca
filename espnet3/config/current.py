"""The parallel config of this process; apart from its model, which workers do not need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espnet3.errors import ConfigError
from espnet3.run_dir.trust import POLICIES, Trust

if TYPE_CHECKING:
    from espnet3.config.model import ParallelConfig

_current: ParallelConfig | None = None


def set_current(config: ParallelConfig | None) -> None:
    """Set the process-wide parallel config; `espnet3.parallel.set_parallel` is for users."""
    global _current
    _current = config


def get_current() -> ParallelConfig | None:
    """The process-wide parallel config, or None in local mode."""
    return _current


def chosen_policy(trust: Trust | None) -> Trust | None:
    """The policy of a call: as given, else as `set_parallel` set it; None is the usual one.

    Raises:
        ConfigError: it is none.

    Example:
        >>> chosen_policy("owner")
        'owner'
    """
    if trust is not None and trust not in POLICIES:
        raise ConfigError("trust", f"{trust!r} is none of {', '.join(POLICIES)}")
    return trust if trust is not None or _current is None else _current.trust
