"""What part of a shard each of its claims stands for, and what its partial receipts cover. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from espnet3._structs import Struct
from espnet3.specs.claims import Claim, PartialReceipt
from espnet3.specs.nested import ResultPart


class Region(Struct):
    """Positions of a shard that one claim stands for.

    Attributes:
        claim: the newest claim of it.
        first: position of its first item.
        end: position after its last item.
    """

    claim: Claim
    first: int
    end: int


def regions_of(n_items: int, claims: Sequence[Claim]) -> list[Region]:
    """The regions of a shard, by position.

    A claim that begins where a region does takes it over; one that begins within a region cuts it
    there, and has the second part. So whoever sees the same claims sees the same regions.

    Args:
        n_items: how many items the shard has.
        claims: in the order of their numbers, from 0; none for a shard that nobody has claimed.
    """
    found: list[Region] = []
    for claim in claims:
        if not found:
            found.append(Region(claim, 0, n_items))
            continue
        at = next((i for i, r in enumerate(found) if r.first <= claim.first < r.end), None)
        if at is None:
            continue  # it is of a longer shard: not of this plan
        cut = found[at]
        if claim.first == cut.first:
            found[at] = cut._replace(claim=claim)
        else:
            found[at] = cut._replace(end=claim.first)
            found.insert(at + 1, Region(claim, claim.first, cut.end))
    return found


def end_of(n_items: int, claims: Sequence[Claim], own: Claim) -> int:
    """Where a claim's own work ends, by the claims that came after it; also if it was taken over.

    Args:
        n_items: how many items the shard has.
        claims: all of the shard, in order.
        own: one of them.
    """
    before = regions_of(n_items, claims[: own.number + 1])
    end = next((region.end for region in before if region.claim is own), n_items)
    later = (claim.first for claim in claims[own.number + 1 :])
    return min((first for first in later if own.first < first < end), default=end)


class Covered(Struct):
    """What partial receipts say of a shard as a whole.

    Attributes:
        end: they cover all items before this position.
        receipts: those that do, by position; each goes on at least where the last one ends.
    """

    end: int
    receipts: list[PartialReceipt]

    def parts(self) -> list[ResultPart] | None:
        """Their parts, if these follow each other; None where some overlap."""
        position = 0
        for receipt in self.receipts:
            if receipt.first != position:
                return None
            position = receipt.end
        return [part for receipt in self.receipts for part in receipt.parts]


def covered(partial: Iterable[PartialReceipt]) -> Covered:
    """How far the partial receipts of a shard cover it, and by which of them.

    Those that go on exactly where another one ends are taken wherever they come as far as all.
    """
    rest = sorted(partial, key=lambda receipt: (receipt.first, receipt.end))
    position, chosen = 0, list[PartialReceipt]()
    while fitting := [r for r in rest if r.first <= position < r.end]:
        chosen.append(max(fitting, key=lambda receipt: receipt.end))
        position = chosen[-1].end
    before: dict[int, PartialReceipt] = {}  # position -> the last one of a chain that ends there
    for receipt in rest:
        if receipt.first == 0 or receipt.first in before:
            before.setdefault(receipt.end, receipt)
    if position in before:
        chosen, at = [], position
        while at > 0:
            chosen.insert(0, before[at])
            at = before[at].first
    return Covered(position, chosen)
