"""Drivers that meet others, or a Ctrl-C, at an awkward moment. The moments are real ones.

    python -m tests.support.rude_driver submit FOLDER N_ITEMS PARALLEL GATED
    python -m tests.support.rude_driver meet FOLDER FILE (submit ... | espnet3 ...)
    python -m tests.support.rude_driver interrupt FOLDER MOMENT THEN N_ITEMS PARALLEL

FILE is one of the run directory, in whose writing as many processes meet as FOLDER/meeting says.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet3.cli import run as espnet3
from espnet3.errors import EspnetError
from espnet3.run import Run
from espnet3.specs import layout
from espnet3.submit import submit
from tests.support.helpers import submit_noting, wait_for
from tests.support.runners import Noting, Workshop, note

SLOW = 0.3  # seconds that the slow disk takes


def before_fsync(file: str, action: Callable[[], None]) -> None:
    """Do something each time when a file of that name, still unpublished, is made durable."""
    original = os.fsync

    def fsync(fd: Any) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
        if name.startswith(f".{file}."):
            action()
        original(fd)

    os.fsync = fsync


def meet(folder: Path, file: str) -> None:
    """Wait for the others before publishing a file."""
    wanted = int((folder / "meeting").read_text())

    def wait() -> None:
        note(folder, "met", os.getpid())
        wait_for(lambda: len({*(folder / "met").read_text().split()}) >= wanted, "nobody came")

    before_fsync(file, wait)


def interrupt(folder: Path, moment: str, then: str, n_items: int, config: str) -> None:
    """Submit, be interrupted, live on and go on; prints what that submitted."""
    parallel, run_dir = json.loads(config), folder / "run"
    runner = Noting(Workshop({"folder": str(folder), "gated": [], "failing": []}))
    intent = run_dir / layout.submission(1)
    loop: asyncio.AbstractEventLoop | None = None
    task: asyncio.Task[object] | None = None
    told = threading.Event()

    def tell() -> None:
        if told.is_set():
            return
        told.set()
        if task is not None and loop is not None:
            loop.call_soon_threadsafe(task.cancel)
        else:
            os.kill(os.getpid(), signal.SIGINT)

    def tell_at_launch() -> None:
        wait_for(intent.exists, "no intent was written")
        tell()

    def tell_at_claim() -> None:
        tell()
        time.sleep(SLOW)

    if moment.endswith("claim"):
        before_fsync("0001.json", tell_at_claim)
    elif moment == "launch":
        threading.Thread(target=tell_at_launch).start()  # else sbatch does it

    async def cancelled() -> None:
        nonlocal loop, task
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(
            submit(runner, range(n_items), run_dir=run_dir, parallel=parallel)
        )
        await task

    try:
        if moment.startswith("cancelled"):
            asyncio.run(cancelled())
        else:
            submit_noting(folder, n_items, parallel)
    except (KeyboardInterrupt, asyncio.CancelledError):
        pass
    else:
        sys.exit("nothing was interrupted")
    run = Run(run_dir)
    if then == "cancel":
        run.cancel()
        run.wait(timeout=20, interval=0.05)
    again = submit_noting(folder, n_items, parallel).submitted if then == "call" else run.resume()
    assert again is not None
    print(json.dumps({"ranks": again.ranks, "left": [*again.left_alone.values()]}))


def main() -> None:
    """See above."""
    words = sys.argv[1:]
    if words[0] == "interrupt":
        _, folder, moment, then, n_items, config = words
        interrupt(Path(folder), moment, then, int(n_items), config)
        return
    if words[0] == "meet":
        meet(Path(words[1]), words[2])
        words = words[3:]
    if words[0] == "espnet3":
        sys.exit(espnet3(words[1:]))
    _, folder, n_items, config, gated = words
    try:
        run = submit_noting(Path(folder), int(n_items), json.loads(config), gated=json.loads(gated))
    except EspnetError as error:
        sys.exit(str(error))
    assert run.submitted is not None
    print(json.dumps(run.submitted.ranks))


if __name__ == "__main__":
    main()
