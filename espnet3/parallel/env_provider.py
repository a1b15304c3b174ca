"""The provider: builds the environment (dataset, model, helpers) where the work runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from espnet3.parallel.constructor import RemembersArguments
from espnet3.user_code.references import WORKER_VARIABLE


class EnvironmentProvider(RemembersArguments):
    """Builds what `forward` needs, on the driver in local mode and on each worker otherwise.

    Args:
        config: the configuration; a plain dict or an OmegaConf DictConfig.

    Example:
        >>> class Words(EnvironmentProvider):
        ...     def build_env_local(self):
        ...         return {"words": self.config["words"]}
        >>> Words({"words": ["a", "b"]}).build_env_local()
        {'words': ['a', 'b']}
    """

    def __init__(self, config: Any) -> None:
        self.config = config

    def build_env_local(self) -> dict[str, Any]:
        """Build the environment on the driver: the keyword arguments of `forward`.

        What the worker's setup function builds, where a subclass defines that alone.
        """
        setup_fn = self.make_worker_setup_fn()
        if setup_fn == self.build_env_local:
            raise NotImplementedError(f"{type(self).__name__} must define build_env_local")
        return setup_fn()

    def make_worker_setup_fn(self) -> Callable[[], dict[str, Any]]:
        """What builds the environment on a worker; `build_env_local` unless overridden."""
        return self.build_env_local

    def build_worker_setup_fn(self) -> Callable[[], dict[str, Any]]:
        """`make_worker_setup_fn` under the name that ESPnet3 gave it in 2026; define either."""
        return self.build_env_local

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # Whichever of the two names is defined nearest to this class is what both mean.
        super().__init_subclass__(**kwargs)
        depth = {name: _depth(cls, name) for name in _SETUP_NAMES}
        nearest, other = sorted(_SETUP_NAMES, key=lambda name: depth[name])
        if depth[nearest] < depth[other]:
            setattr(cls, other, vars(cls.__mro__[depth[nearest]])[nearest])
        look_at_class(cls)


_SETUP_NAMES = ("make_worker_setup_fn", "build_worker_setup_fn")


def look_at_class(cls: type[Any]) -> None:
    """Note what a new class of the user's finds; nothing in a worker, which cannot submit."""
    if WORKER_VARIABLE in os.environ:
        return
    from espnet3.user_code.variables import look_at  # which no worker needs

    look_at(cls)


def _depth(cls: type[Any], name: str) -> int:
    """How far up a class's bases a name is defined."""
    return next(i for i, base in enumerate(cls.__mro__) if name in vars(base))
