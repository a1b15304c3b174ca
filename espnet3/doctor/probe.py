"""What the doctor's job does on a node: look around, and exchange files with who submitted it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

from espnet3._blocking import run_blocking
from espnet3.errors import EspnetError, FileMissing, FileTaken
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run_dir.processes import this_user
from espnet3.schedulers import get_scheduler
from espnet3.specs.models import PlannedJob
from espnet3.startup import kept_schemas
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.submit.submitter import PACKAGES

# Files of the doctor's folder: written before the job; by the job, and by who submitted it.
GREETING, TAKEN = "greeting", "taken"
CALL, ANSWER = "call", "answer"
SIGN = "sign"  # replaced by who submitted it, once the job has read the first one
FIRST, SECOND = b"first", b"second"
PATIENCE = 60.0  # seconds that a file may take from one host to the other
PAUSE = 0.05  # seconds between two looks


def python_here() -> dict[str, Any]:
    """This process's interpreter and the versions of espnet3 and what it needs."""
    versions = {}
    for package in (*PACKAGES, "fsspec"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "executable": sys.executable,
        "version": platform.python_version(),
        "packages": versions,
    }


class ProbeProvider(EnvironmentProvider):
    """Keys of the config: folder and env."""

    def build_env_local(self) -> dict[str, Any]:
        return dict(self.config)


class Probe(BaseRunner):
    """The one item's result is what was found, as plain values."""

    @staticmethod
    def forward(idx: int, *, folder: str, env: str) -> dict[str, Any]:
        store = open_store(folder)
        return {
            "host": os.uname().nodename,
            "python": python_here(),
            "keeps_bytecode": kept_schemas.is_kept(),
            "seen_after": seconds_until(lambda: store.exists(GREETING)),
            "exclusive": _is_refused(store, TAKEN),
            "there_and_back": _call(store),
            "renewed_after": seconds_until(lambda: _read(store, SIGN) == SECOND),
            "scheduler_problem": _scheduler_problem(env),
        }


def seconds_until(condition: Callable[[], bool]) -> float | None:
    """How long a condition takes to become true, in seconds; None where PATIENCE ends first."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > PATIENCE:
            return None
        time.sleep(PAUSE)
    return round(time.monotonic() - began, 2)


def _is_refused(store: Store, path: str) -> bool:
    """Whether a name that the other host has taken cannot be taken again."""
    try:
        store.create(path, b"node")
    except FileTaken:
        return True
    return False


def _read(store: Store, path: str) -> bytes | None:
    """A file's content, or None where it is not there."""
    try:
        return store.read(path)
    except FileMissing:
        return None


def _call(store: Store) -> float | None:
    """Seconds from this host's file to the sight of the other host's answer to it."""
    _read(store, SIGN)  # so that a client that keeps what it has read keeps this
    store.create(CALL, b"node")
    return seconds_until(lambda: store.exists(ANSWER))


def _scheduler_problem(env: str) -> str | None:
    """Why a job could not ask the scheduler, as it must to submit further jobs; None if it can."""
    nobodys = PlannedJob(name="espnet3-doctor", first_task=0, n_tasks=1, log="")
    try:
        run_blocking(get_scheduler(env).find([nobodys], this_user()))
    except EspnetError as error:
        return str(error)
    return None
