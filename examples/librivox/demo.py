"""The demo: submit from a process that exits at once, wait without it, collect and score.

Takes no arguments and needs no cluster. It types the commands for you and shows them.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from espnet3 import Run

HERE = Path(__file__).resolve().parent


def main() -> int:
    run_dir = Path(tempfile.mkdtemp(prefix="espnet3-librivox-")) / "run"
    began = time.monotonic()

    say("1. Submit: one shard for each of five utterances, as detached processes of this host.")
    driver = start("submit.py", str(HERE / "decode.yaml"), f"run_dir={run_dir}")
    if driver.wait() != 0:
        return 1
    run = Run(run_dir)
    gone = "is gone" if not psutil.pid_exists(driver.pid) else "IS STILL THERE"
    say(f"   The driver, process {driver.pid}, has exited and {gone}. Shards: {counts(run)}.")

    say("\n2. Wait: the run directory and the process table tell how far the work is.")
    status = run.wait(interval=0.5)
    say(f"   {time.monotonic() - began:.1f} s after the start, shards: {counts(run)}.")
    if not status.done:
        for rank, cause in status.unfinished().items():
            say(f"   shard {rank} {cause}; its log: {', '.join(run.logs(rank))}")
        return 1

    say("\n3. Collect and score.")
    code = start("score.py", str(run_dir)).wait()
    say(f"{time.monotonic() - began:.1f} s in all. The run directory is yours to look into.")
    return code


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a script of this folder in a process of its own, and say how."""
    command = [sys.executable, str(HERE / script), *arguments]
    say(f"   $ {shlex.join(command)}")
    return subprocess.Popen(command)


def counts(run: Run) -> str:
    """How many shards are in each state, such as "2 queued, 3 running"."""
    return ", ".join(f"{n} {state}" for state, n in run.status().counts().items())


def say(text: str) -> None:
    print(text, flush=True)  # at once, so that it stays in order with what the commands print


if __name__ == "__main__":
    sys.exit(main())
