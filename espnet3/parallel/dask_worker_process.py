"""A Dask worker as a process: its `__main__`, and the processes that `forward` starts."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.util
import os
import socket
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from distributed import WorkerPlugin

from espnet3.parallel.main_guard import unguarded_call
from espnet3.parallel.pickles import adopt_into


class WorkerProcess(WorkerPlugin):
    """Lets `forward` start processes, as it may in local mode, and ends them with the worker.

    A worker that Dask's nanny started is a daemon for `multiprocessing`, which lets no daemon have
    children. It stays one in the nanny's eyes, so that it ends as before with whoever started it;
    in its own eyes it is none.
    """

    name = "espnet3-process"

    def __init__(self) -> None:
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        # As `multiprocessing` names it to its children, which would run a script without a guard.
        self._module = None if spec is None else spec.name
        guarded = spec is None and file is not None and unguarded_call() is None
        self._script = os.path.abspath(file) if guarded and file is not None else None
        self._caller = _this_process()
        self._has_children = False

    def setup(self, worker: Any) -> None:
        """Prepare the process, unless it is the caller's own."""
        if _this_process() == self._caller:
            return
        adopt_into(self._main())
        process = multiprocessing.current_process()
        if process.daemon:
            process.daemon = False
            self._has_children = True
            multiprocessing.util.register_after_fork(self, _end_with_parent)

    def teardown(self, worker: Any) -> None:
        """End the worker's children: the one that `forward` waits for, too, if it still runs."""
        if self._has_children:
            for child in multiprocessing.active_children():
                with contextlib.suppress(ValueError, OSError):  # it was closed or ended meanwhile
                    child.terminate()

    def _main(self) -> ModuleType:
        """The worker's `__main__`: the caller's script where it is, else one that stands for it."""
        main = sys.modules["__main__"]
        spec = getattr(main, "__spec__", None)
        file = getattr(main, "__file__", None)
        if self._module is not None and spec is not None and spec.name == self._module:
            return main
        if self._script is not None and file is not None and os.path.abspath(file) == self._script:
            return main
        instead = ModuleType("__main__")
        instead.__espnet3_before__ = main  # type: ignore[attr-defined]  # Dask's own lives on
        if self._module is not None:
            instead.__spec__ = ModuleSpec(self._module, None)
        elif self._script is not None and os.path.isfile(self._script):
            instead.__file__ = self._script
        return instead


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _end_with_parent(plugin: WorkerProcess) -> None:
    """In a forked child: end when the worker is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, name="espnet3-parent", daemon=True).start()
