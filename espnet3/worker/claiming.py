"""Which shard a worker gets next, where each claims its own (decision 0019)."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from espnet3.errors import FileTaken
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.regions import Region, regions_of
from espnet3.specs import layout
from espnet3.specs.models import Claim, RunSpec, now
from espnet3.worker.attempt import Attempt
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.known_claims import KnownClaims
from espnet3.worker.known_receipts import KnownReceipts
from espnet3.worker.other_workers import OtherWorkers
from espnet3.worker.places import Places
from espnet3.worker.schedule import (
    KILLS,
    SHORTEST_PAUSE,
    AtWork,
    comes_further,
    is_young,
    longest_first,
    splits,
    walk_order,
)
from espnet3.worker.terms import Taken, Terms

log = logging.getLogger("espnet3.worker")
_SLOWER = 1.2  # each look for something to do comes that much later than the one before
_MOST_TRIES = 3  # to share something, one after the other, where others were quicker
_LISTED = 1_000  # names that a store gives for one request
_MOST_LOOKED_AT = 8  # running shards, where nothing is free: others look at others


class Claims:
    """The claims of a run, as far as this worker knows them.

    Args:
        directory: the run directory.
        run: its run.json.
        ranks: the shards that may be claimed.
        submission_number: of the submission that this worker belongs to.
        heartbeat: this worker's signs of life.
        attempt: makes an attempt at a shard and a generation.
        terms: how shards are claimed.
        place: which of the workers this one is, from 0.
        n_places: of how many.
    """

    def __init__(
        self,
        directory: RunDirectory,
        run: RunSpec,
        ranks: Sequence[int],
        submission_number: int,
        heartbeat: Heartbeat,
        attempt: Callable[[int, int], Attempt],
        terms: Terms,
        place: int,
        n_places: int,
    ) -> None:
        self._directory, self._store, self._run = directory, directory.store, run
        self._number, self._heartbeat, self._terms = submission_number, heartbeat, terms
        self._attempt = attempt
        weights = None if terms.in_order else run.weights
        self._walk = walk_order(ranks, weights, place, n_places)
        self._places = Places(
            walk_order(ranks, weights, 0, 1), place, n_places,
            by_weight=weights is not None, in_order=terms.in_order,
        )  # fmt: skip
        self._place, self._n_places = place, n_places
        self._receipts = KnownReceipts(
            directory, run, submission_number, heartbeat.worker,
            has_joined=heartbeat.place.task is None,
        )  # fmt: skip
        self._taken: set[int] = set()  # shards that are known to be claimed
        self._others = OtherWorkers(directory, heartbeat, terms.lease)
        self._claims = KnownClaims(directory, run, self._receipts.generation, self._others)
        self._over: set[tuple[int, int]] = set()  # claims that are vouched for, without a receipt
        self._set_aside: set[int] = set()
        self._watched: list[int] = []  # shards that this search looks at
        self._looked_at = self._listed_at = self._asked_at = -math.inf

    def next(self, wait: Callable[[float], None]) -> Taken | None:
        """Claim what this worker computes next; None where there is nothing for it.

        Args:
            wait: waits for some seconds, and raises where the worker is to end.
        """
        if self._receipts.may_be_unknown:
            self._list_receipts()
        self._watched, began, pause = [], time.monotonic(), SHORTEST_PAUSE
        taken, n_quicker = self._free_one(), 0
        while taken is None:
            if self._is_outdated(began):
                self._look()
                taken = self._free_one()
                if taken is not None or self._places.has_dropped:  # others were quicker
                    continue
            found = self._from_another(began)
            if isinstance(found, Taken) or found is None:
                return found
            n_quicker = n_quicker + 1 if found is False else 0
            if 0 < n_quicker < _MOST_TRIES:
                continue
            wait(pause)
            pause = min(_SLOWER * pause, max(SHORTEST_PAUSE, self._terms.heartbeat / 6))
        return taken

    # --- what nobody has claimed ------------------------------------------------------------------

    def _free_one(self) -> Taken | None:
        """Claim the first shard that nobody has; None where only a look may show another one."""
        while (rank := self._places.next()) is not None:
            if rank in self._taken or self._is_over(rank):
                continue
            # As the last one was taken, the next may be; to read a claim costs less than a try.
            claim = self._claims.first(rank) if self._places.may_be_taken else None
            if claim is None:
                try:
                    taken = self._claim(rank, [], 0, self._run.n_items_of(rank))
                except FileTaken:
                    if not self._taken and self._looked_at == -math.inf:  # it was started again
                        self._learn()
                    claim = self._claims.first(rank) if self._places.is_anothers else None
                else:
                    self._places.was_free()
                    return taken
            self._taken.add(rank)
            self._places.was_taken(None if claim is None else claim.task)
        return None

    def _is_over(self, rank: int) -> bool:
        return rank in (self._receipts.done or ()) or rank in self._set_aside

    def _claim(self, rank: int, before: list[Claim], first: int, end: int) -> Taken:
        """Claim a shard, or what of it lies between two positions.

        Raises:
            FileTaken: somebody else was first.
        """
        generation = self._receipts.generation(rank)
        attempt = self._attempt(rank, generation)
        claim = Claim(
            rank=rank,
            generation=generation,
            number=len(before),
            first=first,
            attempt=attempt.name,
            worker=self._heartbeat.worker,
            process=self._heartbeat.process,
            task=attempt.place.task,
            job_id=attempt.place.job_id,
            time=now(),
        )
        self._directory.require_run(self._run.run_id)
        try:
            self._directory.publish(claim, durable=False)
        except FileTaken:
            self._claims.forget(rank)
            raise
        claims = [*before, claim]
        self._claims.note(rank, claims)
        self._taken.add(rank)
        return Taken(attempt, claim, claims, end)

    def _is_outdated(self, began: float) -> bool:
        """Whether a look may show more than is known, in a search that has begun at that time."""
        if self._places.has_dropped or self._looked_at == -math.inf:
            return True
        # So many are looked at anyway, or may be at work, or cost no more than a listing.
        enough = max(_MOST_LOOKED_AT, self._n_places // 2, self._run.world_size // _LISTED)
        if self._listed_at < began and len(self._claimed()) > enough:
            return True  # many will be done by now, and to ask for each one costs more
        # All that was not done then is claimed, for good: only what was withdrawn can be free.
        if (moment := time.monotonic()) - self._asked_at < self._terms.heartbeat:
            return False
        self._asked_at = moment
        return self._receipts.may_be_withdrawn()

    def _look(self) -> None:
        """Learn which shards are not done; those that nobody is known to have are tried next."""
        self._learn()
        over = {*(self._receipts.done or ()), *self._set_aside, *self._taken}
        self._places.look([rank for rank in self._walk if rank not in over])

    def _learn(self) -> None:
        """Take what another worker has seen; where that says nothing new, look for all."""
        self._looked_at = self._asked_at = time.monotonic()
        is_alone = self._n_places == 1
        remaining = None if is_alone else self._receipts.read_remaining()
        if remaining is not None:
            self._taken.update(remaining.claimed)
            return
        self._list_receipts()
        if not is_alone:
            self._receipts.share_remaining({*self._taken, *self._set_aside})

    def _list_receipts(self) -> None:
        self._looked_at = self._listed_at = self._asked_at = time.monotonic()
        for rank in self._receipts.list_all():
            self._taken.discard(rank)
            self._claims.forget_all(rank)
            self._over = {over for over in self._over if over[0] != rank}

    # --- what others are at -----------------------------------------------------------------------

    def _from_another(self, began: float) -> Taken | bool | None:
        """Take over what somebody left, or share what somebody is at.

        Returns:
            What was taken; True where something may yet come free, False where others were first
            at something; None where nothing will.
        """
        at_work: list[AtWork] = []
        ranks = [rank for rank in self._watched if not self._is_over(rank)]
        is_old = not ranks and self._listed_at < began  # many of them will be done by now
        waiting, n_open, self._watched, self._claims.is_unsure = False, 0, [], False
        for rank in ranks or self._claimed():
            if is_old and self._receipts.has_receipt(rank):
                continue
            self._watched.append(rank)
            claims = self._claims.read(rank)
            if claims is None:
                continue
            if not claims and (again := self._claim_again(rank)) is not None:
                return again
            is_open = False
            for region, is_at in self._open_regions(rank, claims):
                taken = None if is_at else self._take_over(region, claims)
                if isinstance(taken, Taken):
                    return taken
                if taken is False:
                    continue
                is_open = True
                worker = region.claim.worker
                state = self._others.states.get(worker)
                if state is None or (state.rank, state.claim) != (rank, region.claim.number):
                    waiting = True  # it has begun just now, or is about to end
                    continue
                at_work.append(AtWork(state, region, claims))
                waiting |= not self._others.signs.is_alive(worker, time.monotonic())
            n_open += is_open
            if n_open >= _MOST_LOOKED_AT:
                break
        waiting |= self._claims.is_unsure
        shared = self._share(at_work)
        if isinstance(shared, Taken):
            return shared
        if shared:
            return False
        return True if waiting or any(is_young(state) for state, *_ in at_work) else None

    def _share(self, at_work: Sequence[AtWork]) -> Taken | bool:
        """Take the second half of what would take longest; or all of it, to see who is first.

        Returns:
            What was taken; else whether others were first at something.
        """
        quicker: set[int] = set()  # shards of which there are more claims than are known here
        may_cut = at_work if self._run.writers is None else []  # a part would be a folder
        cuts = splits(may_cut, self._terms.heartbeat, self._run.world_size)
        for split, (_, region, claims) in cuts:
            rank = region.claim.rank
            if rank in quicker:
                continue
            try:
                taken = self._claim(rank, claims, split.first, region.end)
            except FileTaken:
                quicker.add(rank)
                continue
            log.info("shard %d: shared from item %d on", rank, split.first)
            return taken
        may_speculate = self._terms.speculate and not quicker
        for _, region, claims in longest_first(at_work) if may_speculate else ():
            if len(claims) < KILLS and region.claim.worker != self._heartbeat.worker:
                with contextlib.suppress(FileTaken):
                    return self._claim(region.claim.rank, claims, region.first, region.end)
        return bool(quicker)

    def _claim_again(self, rank: int) -> Taken | None:
        """Claim a shard whose claims are not there: the host that wrote them has failed since."""
        try:
            taken = self._claim(rank, [], 0, self._run.n_items_of(rank))
        except FileTaken:
            self._claims.is_unsure = True  # they are there, and are seen late
            return None
        log.info("shard %d: claimed again: its claims are lost", rank)
        return taken

    def _take_over(self, region: Region, claims: list[Claim]) -> Taken | bool | None:
        """Claim a region whose worker does not say that it is at it.

        Returns:
            What was taken; False where that is not to be or somebody else was first; None where
            its worker may be at it.
        """
        rank, why = region.claim.rank, self._why_free(region.claim)
        if why is None:
            return None
        if why == "failed":
            self._set_aside.add(rank)
            return False
        if self._kills(region, claims):
            return False
        try:
            taken = self._claim(rank, claims, region.first, region.end)
        except FileTaken:
            self._claims.is_unsure = True
            return False
        log.info("shard %d: taken over from item %d on: %s", rank, region.first, why)
        return taken

    def _claimed(self) -> list[int]:
        """Shards that are claimed and not known to be done; each worker begins elsewhere."""
        over = {*(self._receipts.done or ()), *self._set_aside}
        ranks = [rank for rank in self._walk if rank in self._taken and rank not in over]
        start = self._place % len(ranks) if ranks else 0
        return [*ranks[start:], *ranks[:start]]

    def _open_regions(self, rank: int, claims: Sequence[Claim]) -> Iterator[tuple[Region, bool]]:
        """Parts of a shard that nobody has vouched for, and whether their workers are at them."""
        regions = regions_of(self._run.n_items_of(rank), claims)
        at = [self._others.is_at(region.claim) for region in regions]
        if not all(at) and self._receipts.has_receipt(rank):
            return
        ended = [
            not here and self._claims.has_ended(r.claim)
            for r, here in zip(regions, at, strict=True)
        ]
        if regions and all(ended):
            missing = self._claims.without_receipt(rank, regions)
            self._over.add((rank, missing.claim.number))
            yield missing, False
        for region, here, is_over in zip(regions, at, ended, strict=True):
            if not is_over:
                yield region, here

    def set_aside(self, rank: int) -> None:
        """Do not try again a shard that this worker failed at: that takes a resume."""
        self._set_aside.add(rank)

    def _last_word(self, claim: Claim) -> str | None:
        """The event by which a claim's attempt has said that it is over; None for no word."""
        for event in ("failed", "interrupted"):
            if self._store.exists(layout.attempt_record(claim.rank, claim.attempt, event)):
                return event
        return None

    def _why_free(self, claim: Claim) -> str | None:
        """Why a claim counts no more; None where its worker may be at it."""
        event = self._last_word(claim)
        if event is not None:
            newer = layout.submission_of(claim.attempt) < self._number
            if event == "failed" and not newer:
                return "failed"
            return f"its worker {'failed before' if newer else 'was interrupted'}"
        if (claim.rank, claim.number) in self._over:
            return "its receipt is missing"
        return self._others.why_gone(claim)

    def _kills(self, region: Region, claims: Iterable[Claim]) -> bool:
        """Set a shard aside at which too many workers have ended without a word."""
        rank = region.claim.rank
        without = [
            claim
            for claim in claims
            if claim.first == region.first
            and claim.worker != self._heartbeat.worker
            and self._last_word(claim) is None
            and not self._claims.has_ended(claim)
            and self._others.why_gone(claim) is not None
            and layout.submission_of(claim.attempt) >= self._number
        ]
        if len(without) < KILLS:
            return False
        if comes_further([self._others.place_of_death(claim) for claim in without[-KILLS:]]):
            return False
        words = f"{len(without)} workers ended at it without a word"
        log.error("shard %d: set aside: %s", rank, words)
        attempt = self._attempt(rank, self._receipts.generation(rank))
        # In the name of the last one, so that all who see this leave one record.
        attempt.in_place_of(without[-1].attempt).record("failed", cause=words)
        self._set_aside.add(rank)
        return True
