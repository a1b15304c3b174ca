"""Which shards are done, as far as one worker knows; and what one has seen for all."""

from __future__ import annotations

import contextlib
from collections.abc import Container

from espnet3.errors import EspnetError
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import Remaining, RunSpec, now


class KnownReceipts:
    """The receipts of a run, as one worker has seen them.

    Args:
        directory: the run directory.
        run: its run.json.
        submission_number: of the submission that the worker belongs to.
        worker: its name.
        has_joined: whether it is none of that submission's own.

    Attributes:
        done: rank -> generation of its receipt; None before anything was seen.
    """

    def __init__(
        self,
        directory: RunDirectory,
        run: RunSpec,
        submission_number: int,
        worker: str,
        *,
        has_joined: bool,
    ) -> None:
        self._directory, self._run = directory, run
        self._number, self._worker = submission_number, worker
        self.done: dict[int, int] | None = None
        self._generations: dict[int, int] = {}
        # Only a resume withdraws receipts, and the workers of the first submission come before any.
        self._withdrawing = submission_number > 1 or has_joined
        self._n_shared = 0
        self._seen: tuple[str, int] | None = None  # whose look was read last, or written

    @property
    def may_be_unknown(self) -> bool:
        """Whether there may be receipts, or withdrawals, before this worker has done anything."""
        return self.done is None and self._withdrawing

    def generation(self, rank: int) -> int:
        """The generation of the receipt that a shard gets."""
        return self._generations.get(rank, 1)

    def may_be_withdrawn(self) -> bool:
        """Whether receipts of this run may have been withdrawn, as far as this worker cares.

        Once somebody has resumed; what is withdrawn before, the workers of that resume care for.
        """
        newer = layout.submission(self._number + 1)
        self._withdrawing = self._withdrawing or self._directory.store.exists(newer)
        return self._withdrawing

    def list_all(self) -> list[int]:
        """List them.

        Returns:
            Shards whose receipts were withdrawn since: what is known of them is of the past.
        """
        found = self._directory.receipts(self._run.world_size, withdrawals=self.may_be_withdrawn())
        withdrawn = found.withdrawn.items()
        newly = [rank for rank, generation in withdrawn if generation != self.generation(rank)]
        self.done, self._generations = found.done, found.withdrawn
        return newly

    def has_receipt(self, rank: int) -> bool:
        """Whether a shard has got its receipt since they were looked at."""
        generation = self.generation(rank)
        if not self._directory.store.exists(layout.receipt(rank, generation)):
            return False
        if self.done is not None:
            self.done[rank] = generation
        return True

    # --- what one has seen for all ----------------------------------------------------------------

    def read_remaining(self) -> Remaining | None:
        """What is left of the run, as another worker saw it; None where this one has to look.

        It has to where nobody has looked since, or receipts may have been withdrawn.
        """
        if self.may_be_withdrawn():
            return None
        try:
            remaining = self._directory.read(Remaining, layout.REMAINING)
        except EspnetError:  # it is a hint, whatever keeps it back
            return None
        look = (remaining.worker, remaining.number)
        if remaining.run_id != self._run.run_id or self._seen == look:
            return None
        self._seen = look
        left = {*remaining.free, *remaining.claimed}
        # Nothing was withdrawn, as was asked above, so all receipts are of the first generation.
        over = dict.fromkeys((n for n in range(self._run.world_size) if n not in left), 1)
        self.done = {**over, **(self.done or {})}
        return remaining

    def share_remaining(self, claimed: Container[int]) -> None:
        """Write what is left by the last listing, for others.

        Args:
            claimed: shards that are known to be claimed, or set aside.
        """
        if self._withdrawing:
            return
        left = [rank for rank in range(self._run.world_size) if rank not in (self.done or ())]
        self._n_shared += 1
        self._seen = (self._worker, self._n_shared)
        remaining = Remaining(
            run_id=self._run.run_id,
            worker=self._worker,
            number=self._n_shared,
            time=now(),
            free=[rank for rank in left if rank not in claimed],
            claimed=[rank for rank in left if rank in claimed],
        )
        with contextlib.suppress(EspnetError):
            self._directory.require_run(self._run.run_id)
            self._directory.renew(remaining)
