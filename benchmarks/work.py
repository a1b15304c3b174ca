"""What the benchmarks compute. Workers import this module, so it stays light."""

from __future__ import annotations

import time
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider


class NoEnv(EnvironmentProvider):
    """An empty environment."""

    def build_env_local(self) -> dict[str, Any]:
        return {}


class Trivial(BaseRunner):
    """Gives the item back."""

    @staticmethod
    def forward(idx: int) -> int:
        return idx


class Second(BaseRunner):
    """Takes a second."""

    @staticmethod
    def forward(idx: int) -> int:
        time.sleep(1)
        return idx


class Increment(BaseRunner):
    """What the synchronous mode and its peers compute."""

    @staticmethod
    def forward(idx: int) -> int:
        return idx + 1


LOAD = 2.0  # seconds


class Load(EnvironmentProvider):
    """Has a model that takes a while to load."""

    def build_env_local(self) -> dict[str, Any]:
        time.sleep(LOAD)
        return {}


class Sleep(BaseRunner):
    """An item is the seconds that it takes."""

    @staticmethod
    def forward(seconds: float) -> float:
        time.sleep(seconds)
        return seconds
