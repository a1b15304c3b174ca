"""Ending a worker whose run was removed: nobody will ever ask for what it computes."""

from __future__ import annotations

import logging
import os
import signal
import threading
from types import TracebackType
from typing import Self

from espnet3.errors import EspnetError, FileMissing, UsageError
from espnet3.run_dir.directory import RunDirectory
from espnet3.worker import exit_codes

log = logging.getLogger("espnet3.worker")
GRACE = 30.0  # seconds between SIGTERM and the hard end, as Slurm's KillWait
_LOOK, _AGAIN = 0.7, 0.2  # parts of a heartbeat


class RemovalWatch:
    """Tells this process to end within a heartbeat after its run directory was removed.

    That is by SIGTERM, as a scheduler does it, so that an item in the making is abandoned. To be
    entered within `Signals`. A directory that is missing at one look may be mounted anew at the
    next; trouble of the storage says nothing.

    Args:
        directory: the run directory.
        run_id: of the run that this process works for.
        heartbeat: seconds.
    """

    def __init__(self, directory: RunDirectory, run_id: str, heartbeat: float) -> None:
        self._directory, self._run_id = directory, run_id
        seconds = min(heartbeat, threading.TIMEOUT_MAX)
        self._pause, self._again = _LOOK * seconds, _AGAIN * seconds
        self._closing = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        thread = threading.Thread(target=self._watch, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a shortage of threads: results can be computed all the same
            log.warning("a removal of the run will be noticed late: %s", error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:  # nobody is told to end behind this
            self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(self._pause):
            if self._is_gone() and not self._closing.wait(self._again) and self._is_gone():
                self._end()
                return

    def _is_gone(self) -> bool:
        try:
            self._directory.require_run(self._run_id)
        except (FileMissing, UsageError):
            return True
        except EspnetError:
            return False
        except Exception:  # noqa: BLE001 (a shortage of memory, say)
            return False
        return False

    def _end(self) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            log.warning("%s: the run was removed: this worker ends", self._directory.root)
            # To the thread that computes: it may wait in a call of the system.
            main = threading.main_thread().ident
            if main is not None:
                signal.pthread_kill(main, signal.SIGTERM)
        if not self._closing.wait(GRACE):
            log.warning("it does not end by itself")
            os._exit(exit_codes.INTERRUPTED)
