"""What the benchmarks compute. Workers import this module, so it stays light."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from espnet3.parallel import BaseRunner, EnvironmentProvider

if TYPE_CHECKING:
    from pathlib import Path


class NoEnv(EnvironmentProvider):
    """An empty environment."""

    def build_env_local(self) -> dict[str, Any]:
        return {}


class Trivial(BaseRunner):
    """Gives the item back."""

    @staticmethod
    def forward(idx: int) -> int:
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


class Transcribe(BaseRunner):
    """Gives a line of text for each item, and writes it to a file itself."""

    @staticmethod
    def forward(idx: int, **env: Any) -> dict[str, Any]:
        return {"utt_id": f"utt{idx:06d}", "hyp": "the quick brown fox jumps over the lazy dog"}

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        return {"hyp": (shard_dir / "hyp.scp").open("w", encoding="utf-8")}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        writers["hyp"].write(f"{result['utt_id']} {result['hyp']}\n")
