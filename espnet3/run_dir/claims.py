"""The claims and partial receipts of a run, as they are on disk."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Container, Iterable, Iterator

from espnet3.errors import EspnetError, FileMissing, FormatError
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.receipts import Receipts
from espnet3.specs import layout
from espnet3.specs.models import NO_TIME, Claim, PartialReceipt, ProcessIdentity, RunSpec
from espnet3.storage.base import Store

_READERS = 8  # threads
_NOBODY = f"0000-{0:012x}"


def claim_names(store: Store, generation: Callable[[int], int]) -> Iterator[layout.ClaimName]:
    """What the names of claims and partial receipts say, of those that still count.

    Args:
        store: the run directory.
        generation: tells that of a shard's receipt, which it has or will get.
    """
    for name in map(layout.parse_claim, store.names(layout.CLAIMS)):
        if name is not None and name.generation == generation(name.rank):
            yield name


def read_claims(
    directory: RunDirectory, rank: int, generation: int, known: Iterable[Claim] = ()
) -> list[Claim]:
    """The claims of a shard in the order of their numbers, up to the first gap.

    One that cannot be understood, since its host failed say, is nobody's: it cuts nothing.

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
        except FormatError:
            found.append(_nobodys(rank, generation, number))
    raise AssertionError  # the loop has no other end


def _nobodys(rank: int, generation: int, number: int) -> Claim:
    """What stands for a claim that cannot be understood; it begins behind every shard's end."""
    return Claim(
        rank=rank,
        generation=generation,
        number=number,
        first=sys.maxsize if number else 0,
        attempt=_NOBODY,
        worker=_NOBODY,
        process=ProcessIdentity(host="", pid=1, started=0.0, user=""),
        task=None,
        job_id=None,
        time=NO_TIME,
    )


def read_open_claims(
    directory: RunDirectory, receipts: Receipts, ranks: Container[int] | None = None
) -> dict[int, list[Claim]]:
    """The claims of shards without a receipt: rank -> claims, in order, as far as they can be read.

    Args:
        directory: the run directory.
        receipts: which shards are done.
        ranks: only these shards, done or not; all that are not done where unset.
    """
    counts: dict[int, int] = {}
    for name in claim_names(directory.store, receipts.generation):
        wanted = name.rank not in receipts.done if ranks is None else name.rank in ranks
        if wanted and not name.is_part:
            counts[name.rank] = max(counts.get(name.rank, 0), name.number + 1)

    from espnet3.storage.concurrency import gather  # workers never come here

    def read(rank: int) -> list[Claim]:
        try:
            found = read_claims(directory, rank, receipts.generation(rank))
            return [claim for claim in found if claim.attempt != _NOBODY]
        except EspnetError:  # a hint only
            return []

    found = gather(read, [*counts], _READERS)
    return dict(zip(counts, found, strict=True))


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
