"""The state of the caller's process that its Dask workers take over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from distributed import WorkerPlugin

from espnet3._streams import print_by_line
from espnet3.storage import file_modes as modes
from espnet3.storage.paths import absolute

# What Dask or a batch system gave each worker for itself.
_OWN = ("CUDA_VISIBLE_DEVICES", "DASK_", "SLURM_")


class ProcessState(NamedTuple):
    """What code can read of its process, as it is at one moment.

    Attributes:
        path: `sys.path`; "" is written out.
        argv: `sys.argv`.
        recursion_limit: of the interpreter.
        start_method: of multiprocessing, where one was chosen.
        environ: the environment.
        cwd: the current folder; None where it was removed.
        umask: None where the system does not tell.
    """

    path: list[str]
    argv: list[str]
    recursion_limit: int
    start_method: str | None
    environ: Mapping[str, str]
    cwd: str | None
    umask: int | None

    @classmethod
    def now(cls) -> ProcessState:
        """That of this process."""
        cwd = None
        with contextlib.suppress(OSError):
            cwd = os.getcwd()
        return cls(
            [absolute(entry) if cwd or entry else "" for entry in sys.path],
            [*sys.argv],
            sys.getrecursionlimit(),
            multiprocessing.get_start_method(allow_none=True),
            {k: v for k, v in os.environ.items() if not k.startswith(_OWN)},
            cwd,
            modes.umask(),
        )


class StateFollower:
    """Knows what the workers of one client have of the caller's state.

    Workers begin with the environment, folder and umask that Dask or the batch system gives them;
    only what the caller changes from then on is sent. The rest is sent as it is.
    """

    def __init__(self) -> None:
        self._first = ProcessState.now()
        self._changed: dict[str, str | None] = {}
        self._cwd = self._umask = False
        self._sent: DriverState | None = None

    def news(self) -> DriverState | None:
        """What to send to the workers; None where they have it."""
        now, first = ProcessState.now(), self._first
        for name in {*now.environ, *first.environ, *self._changed}:
            if name in self._changed or now.environ.get(name) != first.environ.get(name):
                self._changed[name] = now.environ.get(name)  # also where it is as it was before
        self._cwd |= now.cwd != first.cwd
        self._umask |= now.umask != first.umask
        state = DriverState(
            now._replace(
                environ={},
                cwd=now.cwd if self._cwd else None,
                umask=now.umask if self._umask else None,
            ),
            dict(self._changed),
        )
        if self._sent is not None and vars(self._sent) == vars(state):
            return None
        self._sent = state
        return state


class DriverState(WorkerPlugin):
    """Gives workers the caller's import path, so that they find its modules, and more of its state.

    And makes them print by the line, so that the log of one that is killed has what it said.

    Args:
        state: what to take over.
        environ: variables to set, or to remove where None.
    """

    name = "espnet3-driver-state"

    def __init__(self, state: ProcessState, environ: Mapping[str, str | None]) -> None:
        self.state, self.environ = state, environ
        self.driver = os.uname().nodename, os.getpid()

    def setup(self, worker: Any) -> None:
        """Take it over; a folder that this host lacks is left out."""
        state = self.state
        if self.driver != (os.uname().nodename, os.getpid()):  # whose output is the user's own
            print_by_line()
        sys.path.extend(entry for entry in state.path if entry not in sys.path)
        sys.argv[:] = state.argv
        sys.setrecursionlimit(state.recursion_limit)
        if state.start_method not in (None, multiprocessing.get_start_method(allow_none=True)):
            multiprocessing.set_start_method(state.start_method, force=True)
        for name, value in self.environ.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if state.cwd is not None:
            with contextlib.suppress(OSError):
                os.chdir(state.cwd)
        if state.umask is not None:
            os.umask(state.umask)
