"""Bad input is refused in one clear line, and nothing is half-written: how that is checked."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import espnet3
from espnet3.errors import (
    EspnetError,
)
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import submit_run
from tests.support.helpers import processes_below, wait_for

REPOSITORY = Path(__file__).parents[2]
IN_WORKER = "ESPNET3_IN_WORKER"
SLURM = {"env": "slurm", "options": {"cores": 1, "memory": "1GB"}}


class Provider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return idx


class Opaque:
    """What JSON cannot hold; unpickling it would show."""

    unpickled = 0

    def __reduce__(self) -> Any:
        return _unpickled, ()


def _unpickled() -> Opaque:
    Opaque.unpickled += 1
    return Opaque()


class Odd(BaseRunner):
    """Returns what the provider says, in a form that JSON cannot hold."""

    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        if idx != 1:
            return idx
        odd = {"object": Opaque(), "nan": {"loss": float("nan")}, "keys": {1: "a"}, "set": {1, 2}}
        return odd[env["kind"]]


class OddProvider(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {"kind": self.config["kind"]}


Snapshot = dict[str, tuple[str, bytes]]


def snapshot(folder: Path) -> Snapshot:
    """Everything below a folder: names, kinds, contents.

    Once no process works there: a run ends before its workers have, who still write to their logs.
    """
    wait_for(lambda: not processes_below(folder), "something still works there")
    found: Snapshot = {}
    for path in sorted(folder.rglob("*")):
        kind = "link" if path.is_symlink() else "folder" if path.is_dir() else "file"
        found[str(path.relative_to(folder))] = kind, path.read_bytes() if kind == "file" else b""
    return found


@contextlib.contextmanager
def refused(error: type[EspnetError], *words: str, folder: Path) -> Iterator[list[Any]]:
    """The block raises that error, in one line that holds the words, and writes nothing."""
    before = snapshot(folder)
    caught: list[Any] = []
    with pytest.raises(EspnetError) as raised:
        yield caught
    caught.append(raised.value)
    assert type(raised.value) is error, repr(raised.value)
    one_clear_line(str(raised.value), *words)
    assert snapshot(folder) == before


def one_clear_line(message: str, *words: str) -> None:
    assert "\n" not in message
    assert len(message) < 700
    assert not message.startswith("Traceback")
    for word in words:
        assert word in message


def start(
    runner: Any = None, items: Any = range(4), parallel: Any = None, run_dir: Any = "run"
) -> Any:
    runner = Runner(Provider({})) if runner is None else runner
    return submit_run(runner, items, run_dir=run_dir, parallel=parallel)


def everything_asked_of(folder: Path) -> dict[str, Callable[[], Any]]:
    run = espnet3.Run(folder)
    return {
        "status": run.status,
        "collect": lambda: run.collect(patience=0),
        "stream": lambda: list(run.stream(patience=0)),
        "resume": run.resume,
        "cancel": run.cancel,
        "logs": lambda: run.logs(0),
        "wait": lambda: run.wait(1),
    }


def worker(run_dir: Path, *arguments: str) -> tuple[int, str]:
    """Run the worker of the first task; its exit code and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "espnet3.worker", str(run_dir), "0001", "--task", "0",
         *arguments],
        capture_output=True, text=True, cwd="/", timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.rstrip("\n")


def unfinish(run_dir: Path) -> None:
    """Take back that shard 0 was done."""
    (run_dir / "receipts/000000.json").unlink()
