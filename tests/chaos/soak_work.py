"""What the soak submits. `python -m tests.chaos.soak_work FOLDER`: a driver that does so.

FOLDER/plan.json says how many items there are, how long one takes, which of them fail until
FOLDER/mended is there, and the parallel config. The run is FOLDER/run.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import Run, submit_run

PLAN, RUN, BEGUN, MENDED = "plan.json", "run", "begun", "mended"


class Paced(EnvironmentProvider):
    """The config: folder, pace in seconds, failing items."""

    def build_env_local(self) -> dict[str, Any]:
        folder = Path(self.config["folder"])
        begun = open(folder / BEGUN, "ab", buffering=0)  # noqa: SIM115 (the process closes it)
        return {"given": dict(self.config), "mended": folder / MENDED, "begun": begun}


class Careful(BaseRunner):
    """Notes that an item is begun, and squares it."""

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        env["begun"].write(f"{idx}\n".encode())
        time.sleep(env["given"]["pace"])
        if idx in env["given"]["failing"] and not env["mended"].exists():
            raise ValueError(f"item {idx} is bad")
        return answer(idx)


def answer(idx: int) -> Any:
    """The result of an item."""
    return {"square": idx * idx, "text": f"„{idx}“ " + "x" * (idx % 7)}


def submit(folder: Path) -> Run:
    """Submit what the plan says; again, it continues the run."""
    plan = json.loads((folder / PLAN).read_text())
    config = {"folder": str(folder), "pace": plan["pace"], "failing": plan["failing"]}
    runner = Careful(Paced(config))
    return submit_run(runner, range(plan["items"]), run_dir=folder / RUN, parallel=plan["parallel"])


if __name__ == "__main__":
    from tests.chaos import soak_work  # workers shall not import the script

    soak_work.submit(Path(sys.argv[1]))
