"""Providers, runners and functions of the tests of the synchronous mode; workers import them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner, EnvironmentProvider
from tests.support.runners import note


class Env(EnvironmentProvider):
    """The environment is the config; it notes where it was built if that names a folder."""

    def build_env_local(self) -> dict[str, Any]:
        if "folder" in self.config:
            note(self.config["folder"], "built", os.getpid())
        return dict(self.config)


class SetupOnly(EnvironmentProvider):
    """Written for ESPnet3 of 2026."""

    def build_env_local(self) -> dict[str, Any]:
        raise RuntimeError("this is not a worker")

    def build_worker_setup_fn(self) -> Callable[[], dict[str, Any]]:
        scale = self.config
        return lambda: {"scale": scale}


class Unbuildable(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        raise OSError("no such model")


class NoDict(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return [("a", 1)]  # type: ignore[return-value]


class Scale(BaseRunner):
    @staticmethod
    def forward(idx: int, *, scale: int, **env: Any) -> int:
        return idx * scale


class Look(BaseRunner):
    """The value of the environment at the item, or at each item of a list of them."""

    @staticmethod
    def forward(idx: Any, *, values: list[Any]) -> Any:
        if isinstance(idx, list):
            return [values[i] for i in idx]
        return values[idx]


class Nest(BaseRunner):
    """Calls another runner for each item."""

    @staticmethod
    def forward(idx: int, *, scale: int) -> list[int]:
        results: list[int] = Scale(Env({"scale": 10 * scale}))(range(idx))
        return [*results, scale]


class Entries(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> dict[str, Any]:
        return env


class Pid(BaseRunner):
    @staticmethod
    def forward(idx: int, **env: Any) -> int:
        time.sleep(0.005)
        return os.getpid()


class Misbehaving(BaseRunner):
    """Does to item 13 what the environment says, and notes what was begun."""

    @staticmethod
    def forward(idx: int, *, deed: str, folder: str | None = None) -> Any:
        if folder is not None:
            note(folder, "begun", idx)
        if idx != 13:
            time.sleep(0.002)
            return idx
        return DEEDS[deed](folder)


class Wait(BaseRunner):
    """Waits in its first item for longer than any test."""

    @staticmethod
    def forward(idx: int, *, folder: str) -> None:
        Path(folder, "waiting").touch()
        time.sleep(600)


class TwoArgumentsError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class LockedError(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def _raise(error: BaseException) -> Any:
    raise error


def _kill(folder: str | None) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_once(folder: str | None) -> Any:
    marker = Path(folder or "", "killed")
    if not marker.exists():
        marker.touch()
        _kill(folder)
    return 13


class Unloadable:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return TwoArgumentsError, (1,)


DEEDS: dict[str, Callable[[str | None], Any]] = {
    "raise": lambda folder: _raise(ValueError("thirteen")),
    "exit": lambda folder: sys.exit("enough"),
    "two": lambda folder: _raise(TwoArgumentsError(1, 2)),
    "locked": lambda folder: _raise(LockedError()),
    "lock": lambda folder: threading.Lock(),
    "stop": lambda folder: _raise(StopIteration("over")),
    "interrupt": lambda folder: _raise(KeyboardInterrupt("mine")),
    "cancelled": lambda folder: _raise(asyncio.CancelledError("mine")),
    "unloadable": lambda folder: Unloadable(),
    "kill": _kill,
    "kill once": _kill_once,
}


# --- the low level --------------------------------------------------------------------------------


def make_env() -> dict[str, Any]:
    return {"offset": 100, "name": "env"}


def bad_env() -> Any:
    return 7


def add_offset(item: int, offset: int) -> int:
    return item + offset


def add_all(item: int, offset: int, more: int = 0) -> int:
    return item + offset + more


def names(item: int, **env: Any) -> list[str]:
    return sorted(env)


def slow_first(item: int) -> int:
    if item == 0:
        time.sleep(1)
    return item


def fail_at_seven(item: int) -> int:
    if item == 7:
        raise KeyError("seven")
    return item


def counting(taken: list[int]) -> Iterator[int]:
    """All numbers; what was taken stands in the list."""
    number = 0
    while True:
        taken.append(number)
        yield number
        number += 1


def kill_at_seven(item: int) -> int:
    return _kill(None) if item == 7 else item


class Counted:
    """Large; counts how often it is pickled."""

    pickled = 0

    def __init__(self) -> None:
        self.data = os.urandom(1_000_000)

    def __getstate__(self) -> dict[str, Any]:
        type(self).pickled += 1
        return vars(self)


def size_of(item: int, large: Counted) -> int:
    time.sleep(0.005)
    return len(large.data)


def eight_megabytes(idx: int) -> bytes:
    return os.urandom(1024) * 8192
