"""What throw-away servers of tests share: processes that are surely ours, waiting, and ports."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Below Linux' ephemeral ports, so that no outgoing connection takes one between choice and use.
PORTS = range(20000, 32000)


@dataclass(frozen=True)
class Process:
    """A process by pid and start time, which together name it for ever."""

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """The live process of this pid; None for one that is gone or only waits to be reaped."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything
        return None if fields[0] in "ZX" else cls(pid, fields[19])

    def alive(self) -> bool:
        """Whether this very process, not a later one of its pid, still runs."""
        return Process.of(self.pid) == self

    def kill(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def stop(self, patience: float = 10) -> None:
        """SIGTERM, and SIGKILL when that is not heeded in time."""
        self.kill(signal.SIGTERM)
        if not wait_for(lambda: not self.alive(), patience):
            self.kill(signal.SIGKILL)
            wait_for(lambda: not self.alive(), patience)


def processes_with(setting: str) -> list[Process]:
    """The live processes whose environment held NAME=VALUE when they started."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        process = Process.of(pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if process is not None and setting.encode() in environment:
                found.append(process)
    return found


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = 0.05) -> bool:
    """Whether a condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


def free_ports(count: int) -> list[int]:
    """Ports in a row that nobody listens on, and that no outgoing connection will take."""
    for _ in range(1000):
        first = random.randrange(PORTS.start, PORTS.stop - count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("", port))
            return list(range(first, first + count))
    raise RuntimeError(f"no {count} free ports in a row between {PORTS.start} and {PORTS.stop}")
