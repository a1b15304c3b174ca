"""Workers in this terminal, waited for whatever signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

RUN_SHARD, JOIN = "espnet3.worker.run_shard", "espnet3.worker.join"


def run_in_foreground(
    module: str, words: Sequence[str], environs: Sequence[Mapping[str, str]] = ({},)
) -> tuple[int, int | None]:
    """Run a worker's module on this terminal, once or several times at once, and wait for the end.

    Args:
        module: `espnet3.worker.run_shard`, or `espnet3.worker.join`.
        words: its command line.
        environs: variables to set besides, for each of the processes.

    Returns:
        The first exit code that is not 0, of `espnet3.worker.exit_codes` or negative where a signal
        killed one, and the number of the signal that this process was told to end by, if it was.

    Example:
        >>> spec = "/shared/run/shards/000003.json"
        >>> run_in_foreground("espnet3.worker.run_shard", [spec])  # doctest: +SKIP
        (0, None)
    """
    command = [sys.executable, "-P", "-m", module, *words]
    processes = [subprocess.Popen(command, env={**os.environ, **own}) for own in environs]
    told: list[int] = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        for process in processes:
            process.terminate()

    # Ctrl-C reaches the worker too, which makes what it has durable; it is waited for.
    # So does the end of the terminal, unless nohup(1) has it ignored.
    hung_up = signal.SIG_IGN if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else stop
    before = [(s, signal.signal(s, h)) for s, h in
              ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, stop),
               (signal.SIGHUP, hung_up))]  # fmt: skip
    try:
        codes = [process.wait() for process in processes]
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return next(filter(None, codes), 0), told[0] if told else None
