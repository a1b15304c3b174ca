"""How long a run takes in which only sharing helps: sorted items, in made-up time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.many_workers import count_claims

N_WORKERS = 16
LENGTHS = [0.01 + 7.39 * (i / 319) ** 17.36 for i in range(320)]  # as in the benchmark `tail`


@pytest.mark.parametrize("longest_last", [True, False])
@pytest.mark.parametrize("n_shards", [1, 8, 16])
def test_idle_workers_share_what_is_left_of_long_shards(
    tmp_path: Path, n_shards: int, longest_last: bool
) -> None:
    """Where nobody shares, 16 shards take 94 s, and 8 take 122 s; nothing can be below 8.3 s."""
    lengths = sorted(LENGTHS, reverse=not longest_last)
    found = count_claims(
        tmp_path, N_WORKERS, n_shards, items_per_shard=len(lengths) // n_shards, starting=0.5,
        lengths=lengths,
    )  # fmt: skip
    assert found.shards == n_shards
    assert found.seconds <= 14.0
