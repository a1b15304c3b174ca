"""Which shards of a run are done, by the names of its receipts and withdrawals alone."""

from __future__ import annotations

from espnet3._structs import Struct
from espnet3.specs import layout
from espnet3.storage.base import Store


class Receipts(Struct):
    """The receipts of a run, seen at one moment.

    Attributes:
        done: rank -> generation of the receipt that counts.
        withdrawn: rank -> generation that a new receipt of a shard would have, where the last one
            was withdrawn.
        names: of all files in the folder of receipts.
        newest: rank -> generation of the newest of them, which may be withdrawn.
    """

    done: dict[int, int]
    withdrawn: dict[int, int]
    names: list[str]
    newest: dict[int, int]

    def generation(self, rank: int) -> int:
        """That of a shard's receipt that counts, or that it will get."""
        return self.withdrawn.get(rank) or self.done.get(rank, 1)


def look_at_receipts(
    store: Store, world_size: int, before: Receipts | None = None, *, withdrawals: bool = True
) -> Receipts:
    """Which shards are done: those with a receipt newer than any withdrawal.

    Args:
        store: the run directory.
        world_size: how many shards there are.
        before: what an earlier look found; spares work where nothing has changed.
        withdrawals: whether there may be any that count for the caller.
    """
    names = store.names(layout.RECEIPTS)
    if before is not None and names == before.names:
        newest = before.newest
    else:
        newest = layout.newest_receipts(names, world_size)
    if not withdrawals:
        return Receipts(newest, {}, names, newest)
    # Looked at last, so that what was withdrawn meanwhile is not taken for done.
    ended = layout.newest_withdrawals(store.names(layout.WITHDRAWALS), world_size)
    withdrawn = {rank: n + 1 for rank, n in ended.items() if newest.get(rank, 0) <= n}
    done = {rank: n for rank, n in newest.items() if rank not in withdrawn} if withdrawn else newest
    return Receipts(done, withdrawn, names, newest)
