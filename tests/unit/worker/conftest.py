"""What an in-process worker changes is put back after each test."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3.specs.layout import FOLDERS
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The import path, directory, environment and log of this process."""
    environ, path, folder = dict(os.environ), sys.path[:], os.getcwd()
    logger = logging.getLogger("espnet3")
    before = logger.handlers[:], logger.level, logger.propagate
    os.environ.pop("ESPNET3_IN_WORKER", None)
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    sys.path[:] = path
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty run directory."""
    store = open_store(tmp_path / "run")
    store.prepare(FOLDERS)
    return store
