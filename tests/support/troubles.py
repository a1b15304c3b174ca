"""A runner that meets what befalls runs: killed, out of memory, out of time, on a bad node."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider
from tests.support.runners import note


class Troubles(EnvironmentProvider):
    """Keys of the config: folder, and what befalls which items.

    kills: a worker is killed at them, once. large: they need 500 MB. slow: each takes that many
    seconds, item -> seconds. raising: they raise. limited: a worker may have as much memory as the
    newest submission asks for. bad_node: a node on which all items raise. gate: a file for which
    all wait.
    """

    def build_env_local(self) -> dict[str, Any]:
        granted = os.environ.get("SLURM_MEM_PER_NODE")
        if self.config.get("large") and granted:  # as sites do that have no cgroups
            resource.setrlimit(resource.RLIMIT_AS, (int(granted) << 20, -1))
        elif self.config.get("limited"):
            resource.setrlimit(resource.RLIMIT_AS, (_asked_for(Path(self.config["folder"])), -1))
        return {"given": self.config}


def _asked_for(folder: Path) -> int:
    """The bytes that the newest submission of the run asks for."""
    newest = max(folder.glob("run/submissions/[0-9][0-9][0-9][0-9].json"))
    memory: str = json.loads(newest.read_text())["options"]["memory"]
    return int(memory.removesuffix("MB")) * 1_000_000


class Troubled(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> dict[str, int]:
        given = env["given"]
        folder = Path(given["folder"])
        note(folder, "begun", idx)
        while "gate" in given and not Path(given["gate"]).exists():
            time.sleep(0.02)
        once = folder / f"killed-{idx}"
        if idx in given.get("kills", ()) and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if idx in given.get("large", ()):
            bytearray(500 << 20)
        mended = "mended" in given and Path(given["mended"]).exists()
        if idx in given.get("raising", ()) and not mended:
            raise ValueError(f"item {idx} is bad")
        if given.get("bad_node") == os.environ.get("SLURMD_NODENAME", "-"):
            raise RuntimeError("no GPU here")
        time.sleep(given.get("slow", {}).get(str(idx), given.get("seconds", 0)))
        return {"item": idx}
