"""Real processes whose storage fails: errors of the system calls below the local store. For tests.

The store's own code runs as it is on a real folder; the calls of `os` that it makes raise what a
full, broken or distant disk would, before the call, after it, or half-way through a write. The
faults travel in an environment variable which `tests/support/site/sitecustomize.py` reads when
Python starts, so that workers and supervisors have them too and the product knows nothing of it:

    with_faults = faults_environment(Faults(rules=[Rule("fsync", "results/", "EIO")]))
    subprocess.run([...], env={**os.environ, **with_faults})

`Faults(seed=7, rate=0.02)` fails at random, the same way for the same seed and command line.
In a process of one's own, `install(faults)` does the same and `uninstall()` ends it.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import random
import sys
import threading
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from espnet3.storage import syncfs

VARIABLE = "ESPNET3_TEST_FAULTS"
SITE = Path(__file__).parent / "site"
OPERATIONS = (
    *("create", "open", "write", "fsync", "fsync folder"),
    *("link", "unlink", "replace", "stat", "scandir", "mkdir"),
    *("rename", "rmdir", "listdir", "syncfs"),
)
PASSING = ("ESTALE", "EAGAIN", "ETIMEDOUT")  # the product tries again
LASTING = ("ENOSPC", "EDQUOT", "EIO", "EROFS")  # it does not


@dataclass(frozen=True)
class Rule:
    """Fail at calls of one kind.

    Attributes:
        operation: one of OPERATIONS, or `*`.
        path: what the path has to contain.
        error: the name of an errno.
        when: `before` the effect, `after` it, or (`write` only) `half`-way.
        first: the first of the calls of this kind that fails, counted from 1 in each process.
        times: how many calls fail from there on; -1 is all.
    """

    operation: str
    path: str = ""
    error: str = "EIO"
    when: str = "before"
    first: int = 1
    times: int = 1


@dataclass(frozen=True)
class Faults:
    """What fails: by rules, and at random with the seed.

    Attributes:
        rules: the first that matches decides.
        seed: of the random ones.
        rate: share of the calls that fail at random.
        errors: what the random ones may be.
        root: only paths that begin with it fail at random.
        log: a file to which each fault is noted as it is injected, one line each.
    """

    rules: list[Rule] = field(default_factory=list)
    seed: int = 0
    rate: float = 0.0
    errors: tuple[str, ...] = (*PASSING, *LASTING)
    root: str = ""
    log: str = ""


def faults_environment(faults: Faults) -> dict[str, str]:
    """The variables by which processes started with them have these faults."""
    paths = [str(SITE), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        VARIABLE: json.dumps(asdict(faults)),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def install_from_environment() -> None:
    """Install what `faults_environment` described, if it did."""
    words = os.environ.get(VARIABLE)
    if words:
        said = json.loads(words)
        install(Faults(**{**said, "rules": [Rule(**rule) for rule in said["rules"]]}))


_SYNC_WHOLE = syncfs.sync_whole
_MODULES = (
    "espnet3.storage.local",
    "espnet3.storage.local_append",
    "espnet3.storage.permissions",
    "espnet3.collect.output",
)


def install(faults: Faults) -> None:
    """Let the storage of this process fail from now on."""
    import importlib

    chance = _Chance(faults)
    for name in _MODULES:
        module: Any = importlib.import_module(name)
        module.os = _System(chance)
        module.open = _opener(chance)
    syncfs.sync_whole = _System(chance).sync_whole


def uninstall() -> None:
    """Let the storage of this process work again."""
    for name in _MODULES:
        module: Any = sys.modules.get(name)
        if module is not None and isinstance(module.os, _System):
            module.os = os
            del module.open
    syncfs.sync_whole = _SYNC_WHOLE


class _Chance:
    """Decides about each call, and notes what it injects."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._lock = faults, threading.Lock()
        self._counts = [0] * len(faults.rules)
        # Names of runs and temporary folders differ each time; task and submission do not.
        words = [word for word in sys.argv if word.isdecimal()]
        self._random = random.Random(f"{faults.seed} {zlib.crc32(' '.join(words).encode())}")

    def of(self, operation: str, path: str) -> tuple[str, OSError] | None:
        """When to fail (`before`, `after` or `half`) and how, or None."""
        with self._lock:
            found = self._by_rule(operation, path) or self._at_random(operation, path)
        if found is None:
            return None
        when, name = found
        if self._faults.log:
            log = os.open(self._faults.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.write(log, f"{operation}\t{path}\t{name}\t{when}\n".encode())
            os.close(log)
        number = getattr(errno, name)
        return when, OSError(number, os.strerror(number), path)

    def _by_rule(self, operation: str, path: str) -> tuple[str, str] | None:
        for i, rule in enumerate(self._faults.rules):
            if rule.operation in ("*", operation) and rule.path in path:
                self._counts[i] += 1
                n = self._counts[i] - rule.first
                if n >= 0 and (rule.times < 0 or n < rule.times):
                    return rule.when, rule.error
        return None

    def _at_random(self, operation: str, path: str) -> tuple[str, str] | None:
        faults = self._faults
        if not faults.rate or not path.startswith(faults.root):
            return None
        if self._random.random() >= faults.rate:
            return None
        whens = ("before", "after", "half") if operation == "write" else ("before", "after")
        return self._random.choice(whens), self._random.choice(faults.errors)


class _System:
    """The module `os`, with faults in the calls that the store makes."""

    def __init__(self, chance: _Chance) -> None:
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _call(self, operation: str, path: str, action: Any, *args: Any) -> Any:
        fault = self._chance.of(operation, path)
        if fault is not None and fault[0] == "before":
            raise fault[1]
        result = action(*args)
        if fault is not None:
            if operation in ("open", "create"):
                os.close(result)
            elif operation == "scandir":
                result.close()
            raise fault[1]
        return result

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        operation = "create" if flags & os.O_CREAT else "open"
        descriptor: int = self._call(operation, path, os.open, path, flags, mode)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        fault = self._chance.of("write", path)
        if fault is None:
            return os.write(descriptor, data)
        if fault[0] != "before":
            os.write(descriptor, data[: len(data) // 2] if fault[0] == "half" else data)
        raise fault[1]

    def fsync(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._call("fsync folder" if os.path.isdir(path) else "fsync", path, os.fsync, descriptor)

    def link(self, source: str, target: str) -> None:
        self._call("link", target, os.link, source, target)

    def unlink(self, path: str) -> None:
        self._call("unlink", path, os.unlink, path)

    def replace(self, source: str, target: str) -> None:
        self._call("replace", target, os.replace, source, target)

    def rename(self, source: str, target: str) -> None:
        self._call("rename", target, os.rename, source, target)

    def rmdir(self, path: str) -> None:
        self._call("rmdir", path, os.rmdir, path)

    def listdir(self, path: str) -> list[str]:
        found: list[str] = self._call("listdir", path, os.listdir, path)
        return found

    def sync_whole(self, descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._call("syncfs", path, _SYNC_WHOLE, descriptor)

    def stat(self, path: str) -> os.stat_result:
        found: os.stat_result = self._call("stat", path, os.stat, path)
        return found

    def mkdir(self, path: str, mode: int = 0o777) -> None:
        self._call("mkdir", path, os.mkdir, path, mode)

    def scandir(self, path: str) -> Any:
        return self._call("scandir", path, os.scandir, path)


class _File(io.FileIO):
    """A new file whose writes may fail."""

    system: _System

    def write(self, data: Any) -> int:
        return self.system.write(self.fileno(), data)


def _opener(chance: _Chance) -> Any:
    system = _System(chance)

    def faulty_open(path: str, mode: str = "r", buffering: int = -1, **keys: Any) -> Any:
        if mode != "xb":  # new files are opened through the module's own opener, and fail there
            fault = chance.of("open", path)
            if fault is not None:
                raise fault[1]
            return builtins.open(path, mode, buffering, **keys)
        file = _File(path, "x", **keys)
        file.system = system
        return file if buffering == 0 else io.BufferedWriter(file)

    return faulty_open


def injected(log: str | os.PathLike[str]) -> Iterable[tuple[str, str, str, str]]:
    """What was injected so far: operation, path, error and when."""
    try:
        lines = Path(log).read_text().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        operation, path, error, when = line.split("\t")
        yield operation, path, error, when
