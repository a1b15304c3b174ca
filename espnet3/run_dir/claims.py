"""The claims and partial receipts of a run, as they are on disk."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable

from espnet3.errors import FileMissing, FormatError
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import Claim, PartialReceipt, RunSpec


def read_claims(
    directory: RunDirectory, rank: int, generation: int, known: Iterable[Claim] = ()
) -> list[Claim]:
    """The claims of a shard in the order of their numbers, which have no gap.

    Args:
        directory: the run directory.
        rank: the shard.
        generation: of the receipt that it gets.
        known: the first of them, which were read before and never change.
    """
    found = list(known)
    for number in itertools.count(len(found)):
        try:
            found.append(directory.read(Claim, layout.claim(rank, generation, number)))
        except FileMissing:
            return found
    raise AssertionError  # the loop has no other end


def read_partial_receipts(
    directory: RunDirectory, run: RunSpec, rank: int, generation: int
) -> list[PartialReceipt]:
    """What the workers that share a shard have vouched for; what cannot be used is left out."""
    found = []
    for claim in read_claims(directory, rank, generation):
        with contextlib.suppress(FileMissing, FormatError):
            path = layout.partial_receipt(rank, generation, claim.number)
            receipt = directory.read(PartialReceipt, path)
            if receipt.fingerprint == run.fingerprint and receipt.rank == rank:
                found.append(receipt)
    return found
