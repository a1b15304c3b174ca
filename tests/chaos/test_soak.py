"""A short soak; `make chaos` is a long one."""

from __future__ import annotations

import pytest

from tests.chaos.soak import soak

SEED, FAULTS = 7, 30


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost() -> None:
    total = soak(SEED, FAULTS)
    print(f"seed {SEED}\n{total.report()}", *total.problems, sep="\n")
    assert not total.bad
    assert sum(total.faults.values()) >= FAULTS
