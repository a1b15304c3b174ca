"""What part of a shard each claim stands for: everybody who sees the same claims sees the same."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from espnet3.run_dir.processes import this_process
from espnet3.run_dir.regions import covered, end_of, regions_of
from espnet3.specs.models import Claim, PartialReceipt, ResultPart, now

MOST = 30
_NOBODY, _SUM = f"0001-{0:012x}", "sha256:" + "0" * 64


def claim(number: int, first: int) -> Claim:
    """A claim of the first shard."""
    return Claim(
        rank=0,
        generation=1,
        number=number,
        first=first,
        attempt=_NOBODY,
        worker=_NOBODY,
        process=this_process(),
        task=None,
        job_id=None,
        time=now(),
    )


@st.composite
def claimed(draw: Any) -> tuple[int, list[Claim]]:
    """A shard's number of items, and claims of it, also such as nobody would make."""
    n_items = draw(st.integers(1, MOST))
    firsts = draw(st.lists(st.integers(0, MOST + 3), max_size=9))
    return n_items, [claim(number, first) for number, first in enumerate(firsts)]


@given(claimed())
def test_regions_tile_the_shard(shard: tuple[int, list[Claim]]) -> None:
    n_items, claims = shard
    regions = regions_of(n_items, claims)
    assert bool(regions) == bool(claims)
    ends = [0, *(region.end for region in regions)]
    assert [region.first for region in regions] == ends[:-1]
    assert all(region.first < region.end for region in regions)
    assert not regions or ends[-1] == n_items


@given(claimed(), st.data())
def test_who_knows_fewer_claims_lacks_only_later_cuts(
    shard: tuple[int, list[Claim]], data: st.DataObject
) -> None:
    n_items, claims = shard
    known = data.draw(st.integers(0, len(claims)))
    early = {region.first for region in regions_of(n_items, claims[:known])}
    late = {region.first for region in regions_of(n_items, claims)}
    assert early <= late
    assert late - early <= {later.first for later in claims[known:]} | {0}


@given(claimed())
def test_a_claim_ends_where_its_region_or_what_was_cut_off_it_does(
    shard: tuple[int, list[Claim]],
) -> None:
    n_items, claims = shard
    for region in regions_of(n_items, claims):
        if region.first == region.claim.first:
            assert end_of(n_items, claims, region.claim) == region.end


@given(claimed(), st.data())
def test_an_end_only_comes_nearer(shard: tuple[int, list[Claim]], data: st.DataObject) -> None:
    n_items, claims = shard
    if not claims:
        return
    own = data.draw(st.sampled_from(claims))
    ends = [end_of(n_items, claims[:known], own) for known in range(own.number + 1, len(claims))]
    assert ends == sorted(ends, reverse=True)
    assert all(end > own.first for end in ends) or own.first >= n_items


def test_a_claim_takes_over_or_cuts() -> None:
    claims = [claim(0, 0), claim(1, 10), claim(2, 10), claim(3, 15)]
    found = [(r.claim.number, r.first, r.end) for r in regions_of(20, claims)]
    assert found == [(0, 0, 10), (2, 10, 15), (3, 15, 20)]
    assert [end_of(20, claims, each) for each in claims] == [10, 15, 15, 20]


# --- what partial receipts cover ------------------------------------------------------------------


def receipt(number: int, first: int, end: int) -> PartialReceipt:
    """A partial receipt of two parts, or of one where there is one item."""
    cuts = sorted({first, (first + end) // 2, end})
    parts = [
        ResultPart(
            file=f"000000.{_NOBODY}.{a}.jsonl", first=a, records=b - a, bytes=9, checksum=_SUM
        )
        for a, b in itertools.pairwise(cuts)
    ]
    return PartialReceipt(
        rank=0,
        generation=1,
        number=number,
        attempt=_NOBODY,
        fingerprint=_SUM,
        errors=0,
        salvaged=0,
        parts=parts,
        host="here",
        created=now(),
    )


spans = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 5)).map(lambda s: (s[0], s[0] + s[1])), max_size=8
)


def reached_without_gap(spans: list[tuple[int, int]]) -> set[int]:
    """All positions at which a chain of spans ends that begins at 0: by trying all."""
    found = {0}
    while more := {end for first, end in spans if first in found} - found:
        found |= more
    return found


@given(spans)
def test_covered_is_what_any_of_them_covers(spans: list[tuple[int, int]]) -> None:
    whole = covered(receipt(n, *span) for n, span in enumerate(spans))
    items = {position for first, end in spans for position in range(first, end)}
    assert whole.end == next(p for p in itertools.count() if p not in items)
    position = 0
    for each in whole.receipts:
        assert each.first <= position < each.end
        position = each.end
    assert position == whole.end


@given(spans)
def test_a_chain_without_overlaps_is_found_where_there_is_one(spans: list[tuple[int, int]]) -> None:
    whole = covered(receipt(n, *span) for n, span in enumerate(spans))
    parts = whole.parts()
    assert (parts is not None) == (whole.end in reached_without_gap(spans))
    position = 0
    for part in parts or ():
        assert part.first == position
        position += part.records
    assert parts is None or position == whole.end
