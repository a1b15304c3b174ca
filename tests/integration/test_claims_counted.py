"""What it costs to find a shard, in operations of the store: many workers, in made-up time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.many_workers import CLAIM, count_claims

# Each worker looks at what others are at when nothing is free: so many operations.
AT_THE_END = 50


@pytest.mark.parametrize("items_per_shard", [1, 4])
def test_a_claim_costs_a_look_at_the_plan_and_a_create(
    tmp_path: Path, items_per_shard: int
) -> None:
    n_workers, n_shards = 4, 100
    found = count_claims(tmp_path, n_workers, n_shards, items_per_shard=items_per_shard)
    assert found.shards == n_shards
    assert found.operations[CLAIM].total() <= 2 * found.claims + AT_THE_END * n_workers
    assert found.operations[CLAIM]["names"] == 1  # by who finds nothing free first


def test_one_worker_lists_what_is_done_for_all(tmp_path: Path) -> None:
    """And another one again, where others have taken nearly all of that."""
    n_workers, n_shards = 8, 400
    found = count_claims(tmp_path, n_workers, n_shards)
    assert found.shards == found.claims == n_shards
    assert found.listings <= 0.5
    assert found.for_each_shard <= 3.3


def test_a_worker_lists_what_is_done_once_at_most(tmp_path: Path) -> None:
    """Where others have listed long ago, so that most of what they saw will be done."""
    n_workers, n_shards = 16, 800
    found = count_claims(tmp_path, n_workers, n_shards)
    assert found.shards == found.claims == n_shards
    assert found.operations[CLAIM]["names"] <= n_workers
    assert found.for_each_shard <= 3.6


def test_workers_that_claim_at_once_seldom_want_the_same(tmp_path: Path) -> None:
    found = count_claims(tmp_path, 12, 60)
    assert found.shards == 60
    assert found.operations[CLAIM]["create"] <= 1.6 * found.claims
