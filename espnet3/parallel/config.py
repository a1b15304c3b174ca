"""The process-wide parallel config that runners follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from espnet3.config.current import get_current, set_current

if TYPE_CHECKING:
    from espnet3.config.model import ParallelConfig

_Reaction = Callable[["ParallelConfig | None"], None]
_when_set: list[_Reaction] = []


def when_set(react: _Reaction) -> _Reaction:
    """Call a function with the new config each time one is set; the shared client's way to know."""
    _when_set.append(react)
    return react


def set_parallel(config: Any) -> None:
    """Say where runners of this process run from now on.

    Args:
        config: a `parallel` section as OmegaConf DictConfig, dict or ParallelConfig, the path of a
            YAML file that holds one, or None for local mode. It is validated and copied.

    Raises:
        ConfigError: names the field that is wrong and the nearest valid name.

    Example:
        >>> set_parallel({"env": "local", "n_workers": 2})
        >>> get_parallel_config().n_workers
        2
        >>> set_parallel(None)
    """
    # At call time: workers, which import this module, need no model of the config.
    from espnet3.config.model import as_parallel_config

    new = None if config is None else as_parallel_config(config)
    set_current(new)
    for react in _when_set:
        react(new)


def get_parallel_config() -> ParallelConfig | None:
    """The config that `set_parallel` set last, or None in local mode."""
    return get_current()
