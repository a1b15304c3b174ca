"""Drivers that submit a small run and may be killed at any of their store operations.

`python -m tests.chaos.dying_driver`: each line on its input is a JSON list of argument lists for
`submit`, for each of which a child is forked; the answer is a list of [exit code, what it printed].
To import takes ten times as long as to submit.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from typing import IO, Any

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


def submit(run_dir: str, env: str, step: str, when: str, counts: str) -> None:
    """Submit; print how many store operations it took. Computed items are appended to `counts`."""
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


def forked(arguments: list[str], printed: IO[str]) -> int:
    """Submit in a child, whose id this returns."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.dup2(printed.fileno(), 1)
            submit(*arguments)
            sys.stdout.flush()
            code = 0
        finally:
            os._exit(code)
    return child


def serve() -> None:
    """Fork a child for each submission that is asked for, those of one line at the same time."""
    for module in ("espnet3.run", "espnet3.submit.jobqueue", "espnet3.submit.local_launcher"):
        importlib.import_module(module)
    for line in sys.stdin:
        children = []
        for arguments in json.loads(line):
            printed = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed below)
            children.append((forked(arguments, printed), printed))
        answers = []
        for child, printed in children:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            printed.seek(0)
            answers.append((code, printed.read()))
            printed.close()
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    serve()
