"""Workers that go on only when they are told to, one operation at a time. For tests.

Each is the real worker in a thread of its own, and a `Process` that can be killed at any operation
on the storage or within `forward`. Signals are handed to its handler where it stands, since a
thread cannot get real ones.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from espnet3.specs import layout
from espnet3.worker import environment as environment_module
from espnet3.worker import main as main_module
from espnet3.worker import rebuild as rebuild_module
from espnet3.worker import signals as signals_module
from tests.support import world as world_module
from tests.support.mortal import Died, Process, current, reach
from tests.support.stand_in_cluster import Task
from tests.support.world import World

STUCK = 60.0  # seconds that one operation may take


class CopyProcess(Process):
    """The process of a copy."""

    def __init__(self, copy: Copy) -> None:
        super().__init__(pace=copy.wait_for_leave)
        self.copy = copy


class Copy:
    """One live execution of a task.

    Attributes:
        task: what the scheduler knows of it.
        known: items that were durable when it began and that it may look for.
        again: those of them that it computed nevertheless.
        files: the result files that it made.
        ended: whether it has ended, in whatever way.
        error: what ended it unexpectedly.
    """

    def __init__(self, world: World, task: Task, known: set[int]) -> None:
        self.world, self.task, self.known = world, task, known
        self.restarts = task.restarts
        self.again: list[int] = []
        self.files: set[str] = set()
        self.ended = False
        self.error: BaseException | None = None
        self.signals: Any = None
        self._pending: signal.Signals | None = None
        self._leave = 0
        self._turn = threading.Condition()
        self._waiting = False
        self._process = CopyProcess(self)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._settle()

    def advance(self, operations: int) -> None:
        """Let it do some operations, or come to its end."""
        with self._turn:
            self._leave += operations
            self._turn.notify_all()
        self._settle()
        self._note_files()

    def finish(self) -> None:
        """Let it come to its end."""
        self.advance(10**9)
        assert self.ended

    def kill(self) -> None:
        """SIGKILL."""
        self._process.dead = True
        self.finish()

    def send(self, number: signal.Signals) -> None:
        """A signal that its handler gets when it goes on."""
        self._pending = number

    def wait_for_leave(self) -> None:
        """In its thread: stand before an operation until it may go on."""
        with self._turn:
            while self._leave == 0 and not self._process.dead:
                self._waiting = True
                self._turn.notify_all()
                self._turn.wait(STUCK)
            self._waiting = False
            self._leave -= 1
        if self._pending is not None and not self._process.dead:
            number, self._pending = self._pending, None
            if self.signals is None:
                self._process.dead = True  # no handler yet: the signal's own effect
            else:
                self.signals._handle(number, None)

    def _work(self) -> None:
        try:
            with self._process.alive():
                self._main()
        except Died:
            pass
        except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
            self.error = error
        finally:
            with self._turn:
                self.ended = True
                self._turn.notify_all()

    def _main(self) -> None:
        main_module.main(self.task.words, self._environ())

    def _environ(self) -> dict[str, str]:
        return Task(self.task.job, self.task.index, [], restarts=self.restarts).environ()

    def _settle(self) -> None:
        """Wait until it stands still again."""
        with self._turn:
            there = self._turn.wait_for(
                lambda: self.ended or (self._waiting and (not self._leave)), STUCK
            )
            assert there, "a worker is stuck"
        assert self.error is None, repr(self.error)

    def _note_files(self) -> None:
        """Only its own result files have grown, and all new ones are its own."""
        before = {*self.world.seen}
        self.world.look(growing=tuple(self.files))
        new = {*self.world.seen} - before
        self.files |= {name for name in new if name.startswith(layout.RESULTS)}


@contextlib.contextmanager
def step_by_step() -> Iterator[None]:
    """Workers are copies, in threads that share this process's surroundings."""

    def enter(self: Any) -> Any:
        process = current()
        assert isinstance(process, CopyProcess)
        process.copy.signals = self
        return self

    def leave(self: Any, *error: object) -> None:
        self.armed = False

    def in_forward(item: int) -> None:
        process = current()
        if isinstance(process, CopyProcess):
            if item in process.copy.known:
                process.copy.again.append(item)
            reach()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signals_module.Signals, "__enter__", enter)
        patch.setattr(signals_module.Signals, "__exit__", leave)
        patch.setattr(environment_module, "enter_submitter_process", lambda run: None)
        patch.setattr(rebuild_module, "reenter_submitter_process", lambda run: None)
        patch.setattr(main_module, "log_to_stderr", lambda: None)
        world_module.in_forward.append(in_forward)
        try:
            yield
        finally:
            world_module.in_forward.remove(in_forward)
            world_module.calls.clear()
