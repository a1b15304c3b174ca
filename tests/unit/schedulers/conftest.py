"""Fixtures for the tests of dialects."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.asking import Commands


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    monkeypatch.setenv("PATH", str(tmp_path))
    return Commands(tmp_path)
