"""A driver that submits a small run and may be killed at any of its store operations.

`python dying_driver.py RUN_DIR ENV STEP WHEN COUNTS`: computed items are appended to COUNTS.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider
from tests.chaos.dying_store import arm

N_ITEMS, N_SHARDS = 9, 3
OPTIONS: dict[str, dict[str, Any]] = {"local": {}, "slurm": {"cores": 1, "memory": "50MB"}}


class CountingProvider(EnvironmentProvider):
    """Opens the file to which computed items are appended."""

    def build_env_local(self) -> dict[str, Any]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return {"counts": os.open(self.config["counts"], flags)}


class SquareRunner(BaseRunner):
    """Squares, and leaves a trace of each call."""

    @staticmethod
    def forward(idx: int, *, counts: int) -> int:
        os.write(counts, f"{idx}\n".encode())
        return idx * idx


def main() -> None:
    """Submit; print how many store operations it took."""
    run_dir, env, step, when, counts = sys.argv[1:]
    from espnet3.run import submit_run

    operations = arm(int(step), when)
    parallel = {
        "env": env,
        "n_workers": N_SHARDS,
        "n_shards": N_SHARDS,
        "preflight": False,
        "options": OPTIONS[env],
    }
    runner = SquareRunner(CountingProvider({"counts": counts}))
    submit_run(runner, range(N_ITEMS), run_dir=run_dir, parallel=parallel)
    print(operations())


if __name__ == "__main__":
    main()
