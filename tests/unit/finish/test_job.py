"""The parent of a finisher, which starts it again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from espnet3.finish.job import _Forwarding

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_between_two_children_is_an_end_and_hits_nobody() -> None:
    child = os.fork()
    if child == 0:
        os._exit(3)
    forwarding = _Forwarding(child)
    assert forwarding.wait() == 3
    assert not forwarding.asked
    signal.raise_signal(signal.SIGTERM)  # its number may be another process's by now
    assert forwarding.asked


def test_a_signal_is_handed_to_the_child() -> None:
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    forwarding = _Forwarding(child)
    signal.raise_signal(signal.SIGTERM)
    assert forwarding.wait() == -signal.SIGTERM
    assert forwarding.asked
