"""The state of the caller's process that its Dask workers take over."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from typing import Any

from distributed import WorkerPlugin

from espnet3._streams import print_by_line
from espnet3.specs.models import ProcessState
from espnet3.storage import permissions
from espnet3.storage.paths import absolute
from espnet3.user_code.import_path import extend_import_path
from espnet3.user_code.taking_over import take_over

# What Dask or a batch system gave each worker for itself.
_OWN = ("CUDA_VISIBLE_DEVICES", "DASK_", "SLURM_")


class StateFollower:
    """Knows what the workers of one client have of the caller's state.

    Workers begin with the environment, folder and umask that Dask or the batch system gives them;
    only what the caller changes from then on is sent. The rest is sent as it is.
    """

    def __init__(self) -> None:
        self._first = _environment(), _folder(), permissions.umask()
        self._changed: dict[str, str | None] = {}
        self._cwd = self._umask = False
        self._sent: CallerState | None = None

    def news(self) -> CallerState | None:
        """What to send to the workers; None where they have it."""
        environ, cwd, umask = _environment(), _folder(), permissions.umask()
        first_environ, first_cwd, first_umask = self._first
        for name in {*environ, *first_environ, *self._changed}:
            if name in self._changed or environ.get(name) != first_environ.get(name):
                self._changed[name] = environ.get(name)  # also where it is as it was before
        self._cwd |= cwd != first_cwd
        self._umask |= umask != first_umask
        start_method: Any = multiprocessing.get_start_method(allow_none=True)
        process = ProcessState(
            argv=[],
            environment={},
            umask=umask if self._umask else None,
            recursion_limit=sys.getrecursionlimit(),
            start_method=start_method,
        )
        # Past the model's checks: what is not UTF-8 does no harm where nothing becomes JSON.
        process.argv.extend(sys.argv)
        process.environment.update(self._changed)
        path = [absolute(entry) if cwd or entry else "" for entry in sys.path]
        state = CallerState(process, path, cwd if self._cwd else None)
        if self._sent is not None and vars(self._sent) == vars(state):
            return None
        self._sent = state
        return state


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}


def _folder() -> str | None:
    """The current folder; None where it was removed."""
    with contextlib.suppress(OSError):
        return os.getcwd()
    return None


class CallerState(WorkerPlugin):
    """Gives workers the caller's import path, so that they find its modules, and more of its state.

    And makes them print by the line, so that the log of one that is killed has what it said.

    Args:
        process: what to take over; `umask` is None where it was not changed.
        path: `sys.path`; "" is written out.
        cwd: the current folder; None where it was not changed, or was removed.
    """

    name = "espnet3-caller-state"

    def __init__(self, process: ProcessState, path: list[str], cwd: str | None) -> None:
        self.process, self.path, self.cwd = process, path, cwd
        self.caller = os.uname().nodename, os.getpid()

    def setup(self, worker: Any) -> None:
        """Take it over; a folder that this host lacks is left out."""
        if self.caller != (os.uname().nodename, os.getpid()):  # whose output is the user's own
            print_by_line()
        extend_import_path(last=self.path)
        take_over(self.process)
        if self.cwd is not None:
            with contextlib.suppress(OSError):
                os.chdir(self.cwd)
