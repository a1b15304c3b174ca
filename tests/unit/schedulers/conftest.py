"""Fixtures for the tests of dialects."""

from __future__ import annotations

import pytest

from tests.support.asking import Commands


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """None are there until they are told what to say."""
    commands = Commands()
    monkeypatch.setattr(Commands, "current", commands, raising=False)
    return commands
