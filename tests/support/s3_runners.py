"""What tests of runs on S3 submit. Workers import this module, so it stays light."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider


class Gate(EnvironmentProvider):
    """Its environment is a file that opens the gate."""

    def build_env_local(self) -> dict[str, Path]:
        return {"gate": Path(self.config["gate"])}


class Waiting(BaseRunner):
    """Fails at item 7 until the gate is open."""

    @staticmethod
    def forward(idx: int, *, gate: Path) -> int:
        if idx == 7 and not gate.exists():
            raise RuntimeError("the gate is shut")
        return idx * idx


class Large(BaseRunner):
    """Results of a megabyte."""

    @staticmethod
    def forward(idx: int, **env: Any) -> str:
        return str(idx) * (1 << 20)
