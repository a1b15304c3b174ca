"""Stops what a test process leaves behind, however it ended: by itself, Ctrl-C, or SIGKILL.

Each process of pytest, and each benchmark, is watched by one of these. When it is gone, the
clusters that it started and did not stop are stopped, then every process that has its mark in the
environment ends.

    python -m tests.support.guard PID STARTED FOLDER
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.daemons import Process, processes_with

# The folder of a guarded process, in the environment of what it starts; by it they are found.
SESSION = "ESPNET3_TEST_SESSION"
ROOT = Path(__file__).parents[2]
# Set to 1 where only those tests run that need none.
WITHOUT_SERVERS = "ESPNET3_WITHOUT_SERVERS"
_CLUSTERS = "clusters"
_PATIENCE = 120  # seconds for a cluster to stop by itself


def watch(folder: Path | None = None) -> None:
    """Let what this process starts from now on end with it.

    Args:
        folder: Where it is written down what is to be stopped, and what else shall be removed when
            this process is gone; a new one by default.
    """
    folder = folder or Path(tempfile.mkdtemp(prefix="espnet3-guard-"))
    process = Process.of(os.getpid())
    if process is None:  # not Linux
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return
    (folder / _CLUSTERS).mkdir(exist_ok=True)
    os.environ.pop(SESSION, None)  # the guard itself shall not be found
    # A session of its own, or Ctrl-C would end it; no stream, or a pipe's reader would wait for it;
    # from a shell that ends at once, so that it is not among this process's children.
    words = [sys.executable, "-m", __name__, str(process.pid), process.started, str(folder)]
    subprocess.run(
        ["sh", "-c", '"$@" &', "sh", *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
    )
    os.environ[SESSION] = str(folder)


def started(module: str, root: Path) -> None:
    """Write down a cluster before its first daemon starts.

    Args:
        module: What stops it, with the arguments `down ROOT`.
        root: The cluster's folder, which is removed when it is stopped.
    """
    if os.environ.get(WITHOUT_SERVERS) == "1":
        raise RuntimeError(f"{WITHOUT_SERVERS}=1, but a test starts a cluster: mark it `server`")
    if (note := _note(root)) is not None:
        note.write_text(json.dumps({"module": module, "root": str(root)}))


def stopped(root: Path) -> None:
    """A cluster needs nobody any more."""
    if (note := _note(root)) is not None:
        note.unlink(missing_ok=True)


def _note(root: Path) -> Path | None:
    """Where a cluster is written down; None in a process that nobody watches."""
    folder = Path(os.environ.get(SESSION, "")) / _CLUSTERS
    if SESSION not in os.environ or not folder.is_dir():
        return None
    return folder / hashlib.sha256(str(root).encode()).hexdigest()[:16]


def main(pid: str, started_at: str, folder: str) -> None:
    """Wait for the end of a process, then clean up after it."""
    process = Process(int(pid), started_at)
    while process.alive():  # no pipe would do: children of fork would keep its end open
        time.sleep(0.3)
    notes = [json.loads(note.read_text()) for note in Path(folder, _CLUSTERS).glob("*")]
    stopping = [
        subprocess.Popen([sys.executable, "-m", note["module"], "down", note["root"]], cwd=ROOT)
        for note in notes
    ]
    for command in stopping:
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(_PATIENCE)
    end_all(f"{SESSION}={folder}")
    for place in [*(note["root"] for note in notes), folder]:
        shutil.rmtree(place, ignore_errors=True)


def end_all(setting: str) -> None:
    """SIGKILL every process that has a setting in its environment, and what these start meanwhile.

    Args:
        setting: NAME=VALUE.
    """
    deadline = time.monotonic() + _PATIENCE  # the kernel may hold one that waits for a dead mount
    while (found := processes_with(setting)) and time.monotonic() < deadline:
        for process in found:
            process.kill(signal.SIGKILL)
        time.sleep(0.05)


if __name__ == "__main__":
    main(*sys.argv[1:])
