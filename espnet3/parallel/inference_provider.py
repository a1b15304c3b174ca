"""The provider for inference: one dataset, one model, and any further entries."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from espnet3.parallel.env_provider import EnvironmentProvider
from espnet3.specs.plain import is_omegaconf


class InferenceProvider(EnvironmentProvider):
    """Builds `dataset` and `model` from the config, once per process.

    Subclasses define the static `build_dataset(config)` and `build_model(config)`.

    Args:
        config: the configuration; a dict or an OmegaConf DictConfig.
        params: further entries of the environment. They also stand in this provider's copy of the
            config, so that the two build functions see them.

    Example:
        >>> class Double(InferenceProvider):
        ...     @staticmethod
        ...     def build_dataset(config):
        ...         return list(range(config["n"]))
        ...
        ...     @staticmethod
        ...     def build_model(config):
        ...         return lambda x: 2 * x
        >>> sorted(Double({"n": 3}, params={"beam": 5}).build_env_local())
        ['beam', 'dataset', 'model']
    """

    def __init__(self, config: Any, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        super().__init__(_updated(config, self.params) if self.params else config)

    @staticmethod
    def build_dataset(config: Any) -> Any:
        """Build the dataset, an object that `forward` indexes with an item."""
        raise NotImplementedError("define a static build_dataset(config)")

    @staticmethod
    def build_model(config: Any) -> Any:
        """Build the model."""
        raise NotImplementedError("define a static build_model(config)")

    def build_env_local(self) -> dict[str, Any]:
        """The environment: `dataset`, `model` and every entry of `params`."""
        return self.make_worker_setup_fn()()

    def make_worker_setup_fn(self) -> Callable[[], dict[str, Any]]:
        """A function that builds the environment; it holds the config, not this object."""
        cls, config, params = type(self), self.config, self.params

        def setup() -> dict[str, Any]:
            return {
                "dataset": cls.build_dataset(config),
                "model": cls.build_model(config),
                **params,
            }

        return setup


def _updated(config: Any, params: Mapping[str, Any]) -> Any:
    """A copy of the config with the params in it; the caller's may serve other providers."""
    updated = copy.deepcopy(config)
    if is_omegaconf(updated):
        from omegaconf import OmegaConf

        OmegaConf.set_struct(updated, False)
    updated.update(params)
    return updated
