"""Waiting for storage in concurrency, or not at all."""

from __future__ import annotations

import threading
import time

import pytest

from espnet3.storage import concurrency
from espnet3.storage.concurrency import gather


def test_what_takes_its_time_is_done_together() -> None:
    together = threading.Barrier(4)
    waits = 25  # more than the hiccups that are allowed

    def action(i: int) -> int:
        if i < waits:
            time.sleep(3 * concurrency.AT_ONCE)
        elif i < waits + 4:
            together.wait(timeout=30)
        return -i

    assert gather(action, range(100), 4) == [-i for i in range(100)]


def test_what_takes_no_time_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrency, "AT_ONCE", 60.0)
    assert set(gather(lambda i: threading.get_ident(), range(100), 4)) == {threading.get_ident()}


@pytest.mark.parametrize("at_once", [0.0, 60.0])
def test_the_first_that_fails_is_told(monkeypatch: pytest.MonkeyPatch, at_once: float) -> None:
    monkeypatch.setattr(concurrency, "AT_ONCE", at_once)

    def action(i: int) -> int:
        if i in (7, 9):
            raise ValueError(i)
        return i

    with pytest.raises(ValueError, match=r"^7$"):
        gather(action, range(20), 4)
