"""What Dask workers print reaches the caller's stderr, each line with the worker's name."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import threading
from typing import Any, TextIO

from distributed import Client, WorkerPlugin

from espnet3.redaction import scrubbed
from espnet3.text import visible

_TOPIC = "espnet3-prints"
_MOST = 1 << 16  # characters of a line that is not ended


class WorkerPrints(WorkerPlugin):
    """Sends the lines that a Dask worker prints to its client.

    What Python code prints, that is; native code and child processes write where the worker's
    process does: to the caller's terminal on this host, to the job's log elsewhere.

    Args:
        keep: whether the lines also stay where they would go otherwise: in a job's log, which
            would be missed, but not on a terminal that shows them already.
    """

    name = "espnet3-prints"

    def __init__(self, *, keep: bool) -> None:
        self._keep, self._caller = keep, _this_process()
        self._before: dict[str, TextIO] = {}

    def setup(self, worker: Any) -> None:
        """Take over the streams, unless they are the caller's own."""
        if _this_process() == self._caller:
            return
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None or isinstance(stream, _Lines):
                continue
            self._before[name] = stream
            setattr(sys, name, _Lines(stream, worker, keep=self._keep))

    def teardown(self, worker: Any) -> None:
        """Give the streams back."""
        for name, stream in self._before.items():
            lines = getattr(sys, name)
            if isinstance(lines, _Lines):
                lines.end()
                setattr(sys, name, stream)


class _Lines(io.TextIOBase):
    """A text stream whose whole lines are sent to the client."""

    def __init__(self, below: TextIO, worker: Any, *, keep: bool) -> None:
        self._below, self._worker, self._keep = below, worker, keep
        self._begun, self._pid = "", os.getpid()
        self._lock = threading.RLock()

    def write(self, text: str, /) -> int:
        own = os.getpid() == self._pid  # a forked child has no way to the client
        if self._keep or not own:
            self._below.write(text)
        if own:
            with self._lock:
                whole, ended, rest = (self._begun + text).rpartition("\n")
                self._begun = rest
                if not ended and len(rest) > _MOST:
                    whole, self._begun = rest, ""
                if whole or ended:
                    self._send(whole)
        return len(text)

    def _send(self, lines: str) -> None:
        if not self._keep and sys.__stderr__ is not None:  # the caller's own; so a kill loses none
            sys.__stderr__.write(_named(str(self._worker.name), lines))
            sys.__stderr__.flush()
            return
        with contextlib.suppress(Exception):  # it is about to end: nobody listens any more
            self._worker.log_event(_TOPIC, (str(self._worker.name), lines))

    def end(self) -> None:
        if self._begun:
            self.write("\n")

    def flush(self) -> None:
        self._below.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        return self._below.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # io declares an attribute
        return self._below.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # likewise
        return self._below.errors


def show_prints(client: Client, *, keep: bool) -> None:
    """Show on this process's stderr what a client's workers print from now on."""

    def show(event: Any) -> None:
        _, (name, text) = event
        stream = sys.stderr
        if stream is not None:
            stream.write(_named(name, text))
            stream.flush()

    client.subscribe_topic(_TOPIC, show)
    client.register_plugin(WorkerPrints(keep=keep))


def _named(name: str, text: str) -> str:
    """Lines with the worker's name; of what a progress bar has drawn over, the last is enough."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "".join(f"[{name}] {visible(scrubbed(line))}\n" for line in lines)


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()
