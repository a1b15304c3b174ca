"""Processes that can die at any operation on the storage, all within one real process. For tests.

The store's own code runs as it is, on a real folder; only the system calls below it (for an object
store: the calls of its file system) go through here. A `Process` counts them and dies at one of
them: `Died` comes instead of the call, and every later call of that process is refused, so nothing
that the product does on its way out (`finally`, `except BaseException`) can reach the storage. A
write may also stop half-way.

A `Disk` remembers what was synced, so that the power of a host can be cut as well.
"""

from __future__ import annotations

import builtins
import contextlib
import contextvars
import io
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest


class Died(BaseException):
    """The process is dead. Nothing in the product may catch this and go on working."""


class Process:
    """Something that lives until its operation number `dies_at`; 0 is for ever.

    Attributes:
        operations: how many it has begun.
        dead: whether it died; all further operations are refused.
        first_of: kind of operation -> the number of its first one.
        pace: called before each operation; may block until somebody lets it go on, or kills it.
    """

    def __init__(self, dies_at: int = 0, pace: Callable[[], None] | None = None) -> None:
        self.dies_at, self.pace = dies_at, pace
        self.operations, self.dead = 0, False
        self.first_of: dict[str, int] = {}
        self.descriptors: set[int] = set()
        self._lock = threading.Lock()

    def die(self) -> None:
        """End at once; raises Died."""
        self.dead = True
        raise Died

    def reach(self, half_way: Callable[[], object] | None = None, kind: str = "") -> None:
        """Come to a moment at which it may die; `half_way` is what it would leave then."""
        if self.pace is not None and not self.dead:
            self.pace()
        with self._lock:
            if self.dead:
                raise Died
            self.operations += 1
            self.first_of.setdefault(kind, self.operations)
            if self.operations == self.dies_at:
                if half_way is not None:
                    half_way()
                self.die()

    @contextlib.contextmanager
    def alive(self) -> Iterator[None]:
        """What is done within the block, also in threads of asyncio, this process does."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)
            for descriptor in self.descriptors:  # the kernel closes what the dead left open
                os.close(descriptor)
            self.descriptors.clear()


class RealProcess(Process):
    """This real process: what is simulated elsewhere is done by SIGKILL."""

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


everybody = Process()
"""What is nobody else's doing; replaced in a process of its own."""
_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current() -> Process:
    """The process that does what is done now."""
    return _current.get() or everybody


def reach(half_way: Callable[[], object] | None = None, kind: str = "") -> None:
    """Come to a moment at which the current process may die; the caller's name is its kind."""
    name = kind or sys._getframe(1).f_code.co_name
    current().reach(half_way, f"half a {name}" if half_way is not None else name)


class Disk:
    """What of the files that were written would survive a power cut."""

    def __init__(self) -> None:
        self._synced: dict[int, int] = {}  # inode -> bytes
        self._names: dict[str, set[str]] = {}  # folder -> names since its last sync

    def created(self, path: str, *, empty: bool = True) -> None:
        """A name was made, of a new and empty file or of one that was there."""
        folder, name = os.path.split(path)
        self._names.setdefault(os.path.realpath(folder), set()).add(name)
        if empty:
            self._synced[os.stat(path).st_ino] = 0

    def synced(self, descriptor: int) -> None:
        """A file or folder was synced."""
        found = os.fstat(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            self._names.pop(os.readlink(f"/proc/self/fd/{descriptor}"), None)
        elif found.st_ino in self._synced:
            self._synced[found.st_ino] = found.st_size

    def synced_whole(self, descriptor: int) -> None:
        """A file system was synced; what counts is what is in an open folder."""
        folder = os.readlink(f"/proc/self/fd/{descriptor}")
        self._names.pop(folder, None)
        for name in os.listdir(folder):
            found = os.stat(os.path.join(folder, name))
            self._synced[found.st_ino] = found.st_size

    def renamed(self, source: str, target: str) -> None:
        """A folder has another name, which is not synced."""
        self._names[os.path.realpath(target)] = self._names.pop(os.path.realpath(source), set())
        self.created(target, empty=False)

    def forget(self) -> None:
        """Take all that is there for durable."""
        self._synced.clear()
        self._names.clear()

    def cut_power(self, root: Path, *, names: bool) -> None:
        """Lose all bytes that nobody synced, and with `names` also names in unsynced folders."""
        for path in [root, *root.rglob("*")]:
            if names and path.name in self._names.get(os.path.realpath(path.parent), ()):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            elif path.is_file():
                found = path.stat()
                if found.st_size > self._synced.get(found.st_ino, found.st_size):
                    os.truncate(path, self._synced[found.st_ino])
        self._names.clear()


class _System:
    """The module `os`, with the calls that change or read files counted."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        reach()
        descriptor = os.open(path, flags, mode)
        if flags & os.O_CREAT:
            self._disk.created(path)
        current().descriptors.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        current().descriptors.discard(descriptor)
        os.close(descriptor)

    def write(self, descriptor: int, data: Any) -> int:
        reach()
        reach(lambda: os.write(descriptor, data[: len(data) // 2]))
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        reach()
        self._disk.synced(descriptor)  # which is all that can be seen of it here

    def link(self, source: str, target: str) -> None:
        reach()
        os.link(source, target)
        self._disk.created(target, empty=False)

    def unlink(self, path: str) -> None:
        reach()
        os.unlink(path)

    def replace(self, source: str, target: str) -> None:
        reach()
        os.replace(source, target)

    def rename(self, source: str, target: str) -> None:
        reach()
        os.rename(source, target)
        self._disk.renamed(source, target)

    def rmdir(self, path: str) -> None:
        reach()
        os.rmdir(path)

    def listdir(self, path: str) -> list[str]:
        reach()
        return os.listdir(path)

    def stat(self, path: str) -> os.stat_result:
        reach()
        return os.stat(path)

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        reach()
        os.mkdir(path, mode)
        self._disk.created(path, empty=False)

    def scandir(self, path: str) -> Any:
        reach()
        return os.scandir(path)


class _Modes(_System):
    """For `espnet3.storage.permissions`: what it opens is counted where it is opened from."""

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        return os.open(path, flags, mode)


class _CountedFile(io.FileIO):
    """A new file whose writes are counted."""

    _counted: _System

    def write(self, data: Any) -> int:
        return self._counted.write(self.fileno(), data)


def _opener(system: _System, disk: Disk) -> Callable[..., Any]:
    def counted_open(path: str, mode: str = "r", buffering: int = -1, **keys: Any) -> Any:
        reach()
        if mode not in ("xb", "ab"):
            return builtins.open(path, mode, buffering, **keys)
        new = not os.path.exists(path)
        file = _CountedFile(path, mode.rstrip("b"), **keys)
        file._counted = system
        if new:
            disk.created(path)
        return file if buffering == 0 else io.BufferedWriter(file)

    return counted_open


class _SameProcess(ThreadPoolExecutor):
    """Threads that belong to the process that uses them."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(contextvars.copy_context().run, fn, *args, **kwargs)


def install(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Put the counting calls below the local store and below what collect writes."""
    disk = Disk()
    system = _System(disk)
    monkeypatch.setattr("espnet3.storage.permissions.os", _Modes(disk))
    monkeypatch.setattr("espnet3.storage.concurrency.ThreadPoolExecutor", _SameProcess)

    def sync_whole(descriptor: int) -> None:
        reach()
        disk.synced_whole(descriptor)

    monkeypatch.setattr("espnet3.storage.syncfs.sync_whole", sync_whole)
    modules = (
        "espnet3.storage.local", "espnet3.storage.local_append", "espnet3.storage.written_folder",
        "espnet3.collect.output",
    )  # fmt: skip
    for module in modules:
        monkeypatch.setattr(f"{module}.os", system)
        monkeypatch.setattr(f"{module}.open", _opener(system, disk), raising=False)
    return disk


_CALLS = ("cat_file", "pipe_file", "put_file", "info", "ls", "rm_file", "getxattr")


class _FileSystem:
    """An fsspec file system whose calls are counted; each of them is done whole or not at all."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._fs, name)
        if name not in _CALLS:
            return method

        def counted(*args: Any, **kwargs: Any) -> Any:
            reach(kind=name)
            return method(*args, **kwargs)

        return counted


def install_below_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the counting calls below the object store."""
    from espnet3.storage import object as object_store

    connect = object_store._connect

    def counted(*args: Any) -> tuple[Any, str]:
        fs, base = connect(*args)
        return _FileSystem(fs), base

    monkeypatch.setattr(object_store, "_connect", counted)
    monkeypatch.setattr("espnet3.storage.concurrency.ThreadPoolExecutor", _SameProcess)
