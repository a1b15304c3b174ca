"""A worker in this terminal, waited for whatever signal comes."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence


def run_in_foreground(words: Sequence[str]) -> tuple[int, int | None]:
    """Run `espnet3.worker.run_shard` on this terminal, and wait for its end.

    Args:
        words: its command line.

    Returns:
        Its exit code, of `espnet3.worker.exit_codes` or negative where a signal killed it, and
        the number of the signal that this process was told to end by, if it was.

    Example:
        >>> run_in_foreground(["/shared/run/shards/000003.json"])  # doctest: +SKIP
        (0, None)
    """
    process = subprocess.Popen([sys.executable, "-P", "-m", "espnet3.worker.run_shard", *words])
    told: list[int] = []

    def stop(number: int, frame: object) -> None:
        told.append(number)
        process.terminate()

    # Ctrl-C reaches the worker too, which makes what it has durable; it is waited for.
    # So does the end of the terminal, unless nohup(1) has it ignored.
    hung_up = signal.SIG_IGN if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else stop
    before = [(s, signal.signal(s, h)) for s, h in
              ((signal.SIGINT, signal.SIG_IGN), (signal.SIGTERM, stop),
               (signal.SIGHUP, hung_up))]  # fmt: skip
    try:
        code = process.wait()
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    return code, told[0] if told else None
