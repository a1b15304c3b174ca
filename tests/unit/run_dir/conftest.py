"""What tests of a run directory share."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty run directory."""
    store = open_store(tmp_path / "run")
    store.prepare(layout.FOLDERS)
    return store
