"""The `espnet3` command: parse, call, print. What a command needs is imported when it runs."""

from __future__ import annotations

from espnet3._lazy import OwnFirst
from espnet3.cli.app import main, run

__all__ = ["main", "run"]
__path__ = OwnFirst(__name__, __path__)  # ESPnet3 has a room of this name, too
