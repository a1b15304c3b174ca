"""What the documents leave to their readers; it lies in their folder as `yours.py`."""

from __future__ import annotations

import time as _time
from typing import Any

from espnet3.parallel import BaseRunner as _BaseRunner
from espnet3.parallel import EnvironmentProvider as _EnvironmentProvider


def open_utterances(path: str) -> range:
    return range(10**6)


def load_model(checkpoint: str) -> Any:
    return str


class _Nothing(_EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class _Square(_BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        return idx * idx


runner = _Square(_Nothing({}))
num_items = 1000
dataset_indices = range(20)


def make_env() -> dict[str, Any]:
    return {"offset": 100}


def user_func(idx: int, offset: int) -> int:
    _time.sleep(0.001)
    return idx + offset


def process(item: int) -> None:
    assert item >= 100
