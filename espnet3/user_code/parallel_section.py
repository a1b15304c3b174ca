"""The parallel config within a provider's config, as the one YAML of a recipe has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARALLEL = "parallel"  # its key


def without_parallel(value: Any) -> Any:
    """A value without its key `parallel`, where a parallel config is there, or null.

    With another queue or more memory a plan is still the same.

    Args:
        value: what a provider was given.

    Example:
        >>> without_parallel({"beam": 5, "parallel": {"env": "slurm", "n_workers": 4}})
        {'beam': 5}
        >>> without_parallel({"parallel": "sentences"})
        {'parallel': 'sentences'}
    """
    if not isinstance(value, Mapping) or PARALLEL not in value:
        return value
    section = value[PARALLEL]
    if section is not None and not (isinstance(section, Mapping) and "env" in section):
        return value
    return {key: part for key, part in value.items() if key != PARALLEL}
