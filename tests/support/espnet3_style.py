"""Providers and runners as they are written for ESPnet3, by its old names; workers import them.

Detached ones, too, which take a second for what belongs to Dask: that is in `espnet3_plugins`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from espnet3.runner.base_runner import BaseRunner
from espnet3.runner.env_provider import EnvironmentProvider
from espnet3.runner.inference_provider import InferenceProvider


class SetupOnly(EnvironmentProvider):
    """Written for 2026: nothing is said of the driver."""

    def build_worker_setup_fn(self) -> Callable[[], dict[str, Any]]:
        scale = self.config["scale"]
        return lambda: {"scale": scale}


class Scaled(InferenceProvider):
    @staticmethod
    def build_dataset(config: Any) -> Any:
        return range(0, 100, config.step)

    @staticmethod
    def build_model(config: Any) -> Any:
        return [config.beam]


class ByClass(BaseRunner):
    """What `forward` reads of its class differs in a subclass."""

    offset = 0

    @classmethod
    def forward(cls, idx: int, *, scale: int) -> Any:
        return [cls.__name__, cls.offset + idx * scale]


class Shifted(ByClass):
    offset = 1000


class Decode(BaseRunner):
    @staticmethod
    def forward(idx: int, *, dataset: Any, model: Any, beam: int) -> Any:
        return [dataset[idx], model, beam]


class World(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {"at_first": _world()}


class Where(BaseRunner):
    @staticmethod
    def forward(idx: int, *, at_first: list[str | None]) -> Any:
        return [*_world(), *at_first]


def _world() -> list[str | None]:
    return [os.environ.get("WORLD_RANK"), os.environ.get("WORLD_SIZE")]
