"""Which receipt a shard needs next, and what its withdrawn receipts say of its result files."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from espnet3._structs import Struct
from espnet3.errors import FileMissing, FormatError
from espnet3.run_dir.reading import read_persisted
from espnet3.run_dir.verification import find_damage, find_damage_in_written
from espnet3.specs import layout
from espnet3.specs.codec import Model
from espnet3.specs.models import Receipt, RunSpec, Withdrawal
from espnet3.storage.base import Store


class ReceiptHistory(Struct):
    """What is known of a shard's result files beside what they hold.

    Attributes:
        vouched: name -> position after the last record that a receipt vouches for, bytes compared.
        damaged: names of files of which nothing is believed.
        errors_from: recorded errors count where an attempt of this submission, or of a later one,
            wrote them.
    """

    vouched: Mapping[str, int] = MappingProxyType({})
    damaged: Collection[str] = frozenset()
    errors_from: int = 0


NO_HISTORY = ReceiptHistory()


def next_generations(store: Store, ranks: Iterable[int], *, look: bool) -> dict[int, int]:
    """The generation of the receipt that each shard needs next; those that are done are left out.

    Args:
        store: the run directory.
        ranks: the shards.
        look: whether there may be withdrawals although there are no receipts; without it, a shard
            that was never computed costs one look.
    """
    # Listed, since an NFS client may remember that a name was not there.
    listed = set(map(layout.parse_receipt, store.names(layout.RECEIPTS))) if look else set()
    first = {rank: (rank, 1) in listed or store.exists(layout.receipt(rank)) for rank in ranks}
    if not look and not any(first.values()):
        return dict.fromkeys(first, 1)
    newest: dict[int, int] = {}
    for found in map(layout.parse_withdrawal, store.names(layout.WITHDRAWALS)):
        if found is not None and found.rank in first:
            newest[found.rank] = max(found.generation, newest.get(found.rank, 0))
    wanted = {rank: newest.get(rank, 0) + 1 for rank in first}
    return {
        rank: generation
        for rank, generation in wanted.items()
        if not (first[rank] if generation == 1 else store.exists(layout.receipt(rank, generation)))
    }


def read_receipt_history(
    store: Store, run: RunSpec, rank: int, generation: int, errors_from: int = 0
) -> ReceiptHistory:
    """What the receipts before a generation vouched for and what withdrew them.

    Args:
        store: the run directory.
        run: its run.json.
        rank: the shard.
        generation: that of the receipt to come.
        errors_from: as the submission says; see `ReceiptHistory`.
    """
    vouched: dict[str, int] = {}
    damaged: set[str] = set()
    for earlier in range(1, generation):
        withdrawal = _read(store, Withdrawal, layout.withdrawal(rank, earlier))
        if withdrawal is None or withdrawal.rank != rank:
            errors_from = sys.maxsize  # why it was withdrawn is not known
        else:
            damaged.update(withdrawal.files)
            errors_from = max(errors_from, withdrawal.from_submission)
        receipt = _read(store, Receipt, layout.receipt(rank, earlier))
        if receipt is None or receipt.rank != rank or receipt.fingerprint != run.fingerprint:
            continue
        damaged.update(find_damage(store, receipt))
        if find_damage_in_written(store, receipt):  # what its lines say of the files is not so
            damaged.update(part.file for part in receipt.parts)
        for part in receipt.parts:
            vouched[part.file] = max(part.first + part.records, vouched.get(part.file, 0))
    return ReceiptHistory(vouched, frozenset(damaged), errors_from)


def _read(store: Store, model: type[Model], path: str) -> Model | None:
    """A record, or None where it is missing or cannot be read."""
    try:
        return read_persisted(store, model, path)
    except (FileMissing, FormatError):
        return None
