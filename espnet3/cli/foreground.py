"""Workers in this terminal, waited for whatever signal comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from espnet3.cli.show import problem
from espnet3.text import signal_name

RUN_SHARD, JOIN = "espnet3.worker.run_shard", "espnet3.worker.join"


class Started(NamedTuple):
    """One of the processes to run.

    Attributes:
        words: its command line, behind the module.
        environ: variables to set besides.
        files: descriptors that it gets, by the numbers that they have here.
    """

    words: Sequence[str]
    environ: Mapping[str, str] = MappingProxyType({})
    files: Sequence[int] = ()


def run_in_foreground(
    module: str, workers: Sequence[Started], *, quiet: bool = False
) -> tuple[int, int | None]:
    """Run a worker's module on this terminal, once or several times at once, and wait for the end.

    Args:
        module: `espnet3.worker.run_shard`, or `espnet3.worker.join`.
        workers: the processes.
        quiet: whether what they print goes to standard error, since this process has an answer of
            its own.

    Returns:
        The first exit code that is not 0, of `espnet3.worker.exit_codes` or negative where a signal
        killed one, and the number of the signal that this process was told to end by, if it was.

    Example:
        >>> spec = "/shared/run/shards/000003.json"
        >>> run_in_foreground(RUN_SHARD, [Started([spec])])  # doctest: +SKIP
        (0, None)
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", module, *worker.words],
            env={**os.environ, **worker.environ},
            pass_fds=worker.files,
            stdout=2 if quiet else None,
        )
        for worker in workers
    ]
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
    for code in codes:
        if code < 0 and not told and -code != signal.SIGINT:  # it could say nothing itself
            problem(f"the worker's process was ended by {signal_name(-code)}")
    return next(filter(None, codes), 0), told[0] if told else None
