"""The parallel config of this process; apart from its model, which workers do not need."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.specs.config import ParallelConfig

_current: ParallelConfig | None = None


def set_current(config: ParallelConfig | None) -> None:
    """Set the process-wide parallel config; `espnet3.parallel.set_parallel` is for users."""
    global _current
    _current = config


def get_current() -> ParallelConfig | None:
    """The process-wide parallel config, or None in local mode."""
    return _current
