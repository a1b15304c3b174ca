"""Which shard a worker gets next, where each claims its own (decision 0019)."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from espnet3.errors import FileTaken, StoreError
from espnet3.run_dir.claims import claim_names, read_claims, read_partial_receipts
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.regions import Region, covered, regions_of
from espnet3.specs import layout
from espnet3.specs.models import Claim, RunSpec, WorkerState, now
from espnet3.worker.attempt import Attempt
from espnet3.worker.heartbeat import Heartbeat
from espnet3.worker.other_workers import OtherWorkers
from espnet3.worker.schedule import (
    KILLS,
    SHORTEST_PAUSE,
    Split,
    comes_further,
    is_young,
    likely_pace,
    shard_paces,
    split_of,
    walk_order,
)
from espnet3.worker.terms import Taken, Terms

log = logging.getLogger("espnet3.worker")
_SLOWER = 1.2  # each look for something to do comes that much later than the one before
_MOST_LOOKED_AT = 12  # running shards, where nothing is free: others look at others
_MOST_TRIES = 6  # creates that find their names taken, before the folder is listed again
_JUMP = 0.382  # of what is left: far from where somebody else is


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
        self._walk = walk_order(ranks, None if terms.in_order else run.weights, place, n_places)
        self._share_of_all = place % n_places / n_places
        # What may be free, in the order in which it is tried: at first this worker's own places.
        self._left = deque(self._walk[: len(self._walk[place % n_places :: n_places])])
        self._place = place
        self._watched: set[int] = set()  # shards that were looked at last, not being done
        self._done: dict[int, int] | None = None
        self._generations: dict[int, int] = {}
        self._counts: dict[int, int] = {}  # rank -> number of claims, as they were listed
        self._ended: dict[int, set[int]] = {}  # rank -> claims that have a partial receipt
        self._known: dict[int, list[Claim]] = {}
        self._others = OtherWorkers(directory, heartbeat, terms.lease)
        self._over: set[tuple[int, int]] = set()  # claims whose attempts left a record of their end
        self._set_aside: set[int] = set()
        self._is_listed, self._listed_at = False, -math.inf

    def generation(self, rank: int) -> int:
        """The generation of the receipt that a shard gets."""
        return self._generations.get(rank, 1)

    def next(self, wait: Callable[[float], None]) -> Taken | None:
        """Claim what this worker computes next; None where there is nothing for it.

        Args:
            wait: waits for some seconds, and raises where the worker is to end.
        """
        if self._done is None:
            self._begin()
        if (taken := self._free_one()) is not None:
            return taken
        pause, listed = SHORTEST_PAUSE, -math.inf
        while True:
            if time.monotonic() - listed >= self._terms.heartbeat or not self._watched:
                listed = time.monotonic()
                self._look_at_receipts()
                if listed - self._listed_at >= self._terms.heartbeat:  # all is claimed since
                    self._list()
                if (taken := self._free_one()) is not None:
                    return taken
                if self._left:  # others are quicker: it is another list by now
                    listed = self._listed_at = -math.inf
                    continue
            found = self._from_another()
            if isinstance(found, Taken) or found is None:
                return found
            wait(pause)
            pause = min(_SLOWER * pause, max(SHORTEST_PAUSE, self._terms.heartbeat / 6))

    def _begin(self) -> None:
        """Look which shards are done, where there may be any that nobody has claimed."""
        if self._number == 1 and self._heartbeat.place.task is not None:
            self._done = {}
        else:
            self._look_at_receipts()

    # --- what nobody has claimed ------------------------------------------------------------------

    def _free_one(self) -> Taken | None:
        """Claim the first of what is left that nobody has; None also after too many tries."""
        done, tries = self._done or {}, 0
        while self._left and tries < _MOST_TRIES:
            rank = self._left.popleft()
            if rank in done or self._counts.get(rank) or rank in self._set_aside:
                continue
            try:
                return self._claim(rank, [], 0, self._run.n_items_of(rank))
            except FileTaken:
                self._counts[rank] = 1
                tries += 1
                if self._is_listed:
                    self._left.rotate(-round(_JUMP * len(self._left)))
                else:  # somebody is at this worker's own places
                    self._list()
        return None

    def _claim(self, rank: int, before: list[Claim], first: int, end: int) -> Taken:
        """Claim a shard, or what of it lies between two positions.

        Raises:
            FileTaken: somebody else was first.
        """
        generation = self.generation(rank)
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
            self._known.pop(rank, None)
            raise
        claims = self._known[rank] = [*before, claim]
        self._counts[rank] = len(claims)
        return Taken(attempt, claim, claims, end)

    def _look_at_receipts(self) -> None:
        found = self._directory.receipts(self._run.world_size)
        for rank, generation in found.withdrawn.items():
            if generation != self.generation(rank):  # what is known is of the one before
                self._listed_at = -math.inf
                for known in (self._counts, self._ended, self._known):
                    known.pop(rank, None)
                self._over = {over for over in self._over if over[0] != rank}
        self._done, self._generations = found.done, found.withdrawn

    def _list(self) -> None:
        """Learn from the folder which shards are claimed."""
        self._is_listed, self._listed_at = True, time.monotonic()
        for name in claim_names(self._store, self.generation):
            if name.is_part:
                self._ended.setdefault(name.rank, set()).add(name.number)
            else:
                count = max(self._counts.get(name.rank, 0), name.number + 1)
                self._counts[name.rank] = count
        over = {*(self._done or ()), *self._set_aside}
        free = [rank for rank in self._walk if not self._counts.get(rank) and rank not in over]
        # Each worker begins elsewhere, so that those who come here together are in nobody's way.
        start = int(self._share_of_all * len(free))
        self._left = deque([*free[start:], *free[:start]])

    # --- what others are at -----------------------------------------------------------------------

    def _from_another(self) -> Taken | bool | None:
        """Take over what somebody left, or share what somebody is at.

        Returns:
            What was taken; True where something may yet come free; None where nothing will.
        """
        regions = self._open_regions()
        waiting = self._is_unsure
        for rank in self._lost:
            with contextlib.suppress(FileTaken):
                log.info("shard %d: claimed again: its claims are lost", rank)
                return self._claim(rank, [], 0, self._run.n_items_of(rank))
            waiting = True  # they are there, and are seen late
        at_work: list[tuple[WorkerState, Region, list[Claim]]] = []
        for region, claims in regions:
            rank = region.claim.rank
            is_at = self._others.is_at(region.claim)
            if not is_at and self._has_ended(region.claim, len(claims)):
                continue
            why = None if is_at else self._why_free(region.claim)
            if why == "failed":
                self._set_aside.add(rank)
                continue
            if why is not None:
                if self._kills(region, claims):
                    continue
                try:
                    log.info("shard %d: taken over from item %d on: %s", rank, region.first, why)
                    return self._claim(rank, claims, region.first, region.end)
                except FileTaken:
                    waiting = True
                    continue
            state = self._others.states.get(region.claim.worker)
            if state is None or (state.rank, state.claim) != (rank, region.claim.number):
                waiting = True  # it has begun just now, or is about to end
                continue
            at_work.append((state, region, claims))
            waiting |= not self._others.signs.is_alive(region.claim.worker, time.monotonic())
        shared = self._share(at_work)
        if isinstance(shared, Taken):
            return shared
        waiting |= shared or any(is_young(state) for state, *_ in at_work)
        return True if waiting else None

    def _share(self, at_work: list[tuple[WorkerState, Region, list[Claim]]]) -> Taken | bool:
        """Take the second half of what would take longest; or all of it, to see who is first.

        Returns:
            What was taken; else whether others were first at something.
        """
        paces = shard_paces(state for state, *_ in at_work)
        shared: list[tuple[Split, Region, list[Claim]]] = []
        running: list[tuple[float, Region, list[Claim]]] = []
        for state, region, claims in at_work:
            pace = likely_pace(state, paces)
            split = split_of(state, region.end, pace, self._terms.heartbeat)
            if split is not None and region.first < split.first < region.end:
                shared.append((split, region, claims))
            elif pace and not is_young(state):
                running.append(((region.end - state.position) / pace, region, claims))
        for split, region, claims in sorted(shared, key=lambda each: -each[0].left):
            try:
                taken = self._claim(region.claim.rank, claims, split.first, region.end)
            except FileTaken:
                continue
            log.info("shard %d: shared from item %d on", region.claim.rank, split.first)
            return taken
        if self._terms.speculate:
            for _, region, claims in sorted(running, key=lambda each: -each[0]):
                if len(claims) < KILLS and region.claim.worker != self._heartbeat.worker:
                    try:
                        return self._claim(region.claim.rank, claims, region.first, region.end)
                    except FileTaken:
                        continue
        return bool(shared)

    def _open_regions(self) -> list[tuple[Region, list[Claim]]]:
        """Parts of claimed shards that nobody has vouched for, with all claims of the shard."""
        found: list[tuple[Region, list[Claim]]] = []
        self._lost: list[int] = []
        self._is_unsure = False
        over = {*(self._done or ()), *self._set_aside}
        ranks = [rank for rank in self._walk if self._counts.get(rank) and rank not in over]
        self._watched = set()
        start = self._place % len(ranks) if ranks else 0
        for rank in [*ranks[start:], *ranks[:start]]:
            if len(found) >= _MOST_LOOKED_AT:
                break
            self._watched.add(rank)
            claims = self._read_claims(rank)
            if claims is None:
                continue
            if not claims:  # the host that wrote them has failed since
                self._lost.append(rank)
            regions = regions_of(self._run.n_items_of(rank), claims)
            ended = self._ended.get(rank, set())
            open_ones = [region for region in regions if region.claim.number not in ended]
            if not open_ones and regions:
                open_ones = [self._without_receipt(rank, regions)]
            found += [(region, claims) for region in open_ones]
        return found

    def _read_claims(self, rank: int) -> list[Claim] | None:
        """A shard's claims; None where they cannot be read, now or for as long as a lease."""
        known = self._known.get(rank, [])
        if known and all(self._others.is_at(claim) for claim in known):
            return known  # if there are more by now, a claim will find its name taken
        try:
            found = read_claims(self._directory, rank, self.generation(rank), known)
        except StoreError as error:
            name, moment = f"claims of {rank}", time.monotonic()
            self._others.signs.see(name, len(known), moment)
            self._is_unsure |= not self._others.signs.is_stale(name, moment)
            log.warning("shard %d: its claims cannot be read: %s", rank, error)
            return None
        self._known[rank] = found
        return found

    def _without_receipt(self, rank: int, regions: Sequence[Region]) -> Region:
        """The region to take over where all are vouched for, and who did so last has died since.

        That is one which nobody has vouched for after all, where claims were lost.
        """
        found = read_partial_receipts(self._directory, self._run, rank, self.generation(rank))
        end = covered(found).end
        region = next((each for each in regions if each.first <= end < each.end), regions[-1])
        self._over.add((rank, region.claim.number))
        return region

    def _has_ended(self, claim: Claim, n_claims: int) -> bool:
        """Whether a shard, or a part of it, has been vouched for since that was listed."""
        rank = claim.rank
        if self._has_receipt(rank):
            self._watched.discard(rank)
            if self._done is not None:
                self._done[rank] = self.generation(rank)
            return True
        path = layout.partial_receipt(rank, claim.generation, claim.number)
        if n_claims == 1 or (rank, claim.number) in self._over or not self._store.exists(path):
            return False
        self._ended.setdefault(rank, set()).add(claim.number)
        return True

    def _has_receipt(self, rank: int) -> bool:
        """Whether a shard has got its receipt since they were looked at."""
        return self._store.exists(layout.receipt(rank, self.generation(rank)))

    def set_aside(self, rank: int) -> None:
        """Let others try a shard that this worker has failed at, when somebody resumes."""
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
        ended = self._ended.get(rank, set())
        without = [
            claim
            for claim in claims
            if claim.first == region.first
            and claim.number not in ended
            and claim.worker != self._heartbeat.worker
            and self._last_word(claim) is None
            and self._others.why_gone(claim) is not None
            and layout.submission_of(claim.attempt) >= self._number
        ]
        if len(without) < KILLS:
            return False
        if comes_further([self._others.place_of_death(claim) for claim in without[-KILLS:]]):
            return False
        words = f"{len(without)} workers ended at it without a word"
        log.error("shard %d: set aside: %s", rank, words)
        attempt = self._attempt(rank, self.generation(rank))
        # In the name of the last one, so that all who see this leave one record.
        attempt.in_place_of(without[-1].attempt).record("failed", cause=words)
        self._set_aside.add(rank)
        return True
