"""The gate that workers of tests wait at, opened at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def gate_opens_at_last(tmp_path: Path) -> Iterator[None]:
    """A failing test leaves no worker behind that waits for ever."""
    from tests.support.runners import GATE  # not before Dask may be imported, see conftest.py

    yield
    (tmp_path / GATE).touch()
