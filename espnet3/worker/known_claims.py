"""The claims and partial receipts of some shards, as far as one worker has read them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from espnet3.errors import EspnetError, StoreError
from espnet3.run_dir.claims import read_claims, read_partial_receipts
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.regions import Region, covered
from espnet3.specs import layout
from espnet3.specs.models import Claim, RunSpec
from espnet3.worker.other_workers import OtherWorkers

log = logging.getLogger("espnet3.worker")


class KnownClaims:
    """What a worker has read of claims, which never change.

    Args:
        directory: the run directory.
        run: its run.json.
        generation: tells that of the receipt that a shard gets.
        others: the other workers.

    Attributes:
        is_unsure: whether something could not be read that may be read later.
    """

    def __init__(
        self,
        directory: RunDirectory,
        run: RunSpec,
        generation: Callable[[int], int],
        others: OtherWorkers,
    ) -> None:
        self._directory, self._run, self._generation = directory, run, generation
        self._others = others
        self._known: dict[int, list[Claim]] = {}
        self._ended: dict[int, set[int]] = {}  # rank -> claims that have a partial receipt
        self.is_unsure = False

    def note(self, rank: int, claims: list[Claim]) -> None:
        """Note claims that are known from elsewhere."""
        self._known[rank] = claims

    def forget(self, rank: int) -> None:
        """There may be more claims of a shard by now; or they are of another generation."""
        self._known.pop(rank, None)

    def forget_all(self, rank: int) -> None:
        """What is known of a shard is of a generation whose receipt was withdrawn."""
        self.forget(rank)
        self._ended.pop(rank, None)

    def first(self, rank: int) -> Claim | None:
        """A shard's first claim, read; None where it is not there or cannot be read."""
        with contextlib.suppress(EspnetError):
            path = layout.claim(rank, self._generation(rank), 0)
            return self._directory.read(Claim, path)
        return None

    def read(self, rank: int) -> list[Claim] | None:
        """A shard's claims; None where they cannot be read, now or for as long as a lease."""
        known = self._known.get(rank, [])
        if known and all(self._others.is_at(claim) for claim in known):
            return known  # if there are more by now, a claim will find its name taken
        try:
            found = read_claims(self._directory, rank, self._generation(rank), known)
        except StoreError as error:
            name, moment = f"claims of {rank}", time.monotonic()
            self._others.signs.see(name, len(known), moment)
            self.is_unsure |= not self._others.signs.is_stale(name, moment)
            log.warning("shard %d: its claims cannot be read: %s", rank, error)
            return None
        self._known[rank] = found
        return found

    def has_ended(self, claim: Claim) -> bool:
        """Whether somebody has vouched for what a claim stands for."""
        ended = self._ended.setdefault(claim.rank, set())
        path = layout.partial_receipt(claim.rank, claim.generation, claim.number)
        if claim.number not in ended and self._directory.store.exists(path):
            ended.add(claim.number)
        return claim.number in ended

    def without_receipt(self, rank: int, regions: Sequence[Region]) -> Region:
        """The region to take over where all are vouched for, and who did so last has died since.

        That is one which nobody has vouched for after all, where claims were lost.
        """
        generation = self._generation(rank)
        found = read_partial_receipts(self._directory, self._run, rank, generation)
        end = covered(found).end
        return next((each for each in regions if each.first <= end < each.end), regions[-1])
