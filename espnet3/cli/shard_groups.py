"""Shards that are not done, gathered by what they have in common; and what to type about them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from espnet3.cli.show import command
from espnet3.text import one_line

if TYPE_CHECKING:
    from espnet3.status.run_status import RunStatus, ShardStatus, State

# What needs somebody first.
_ORDER: tuple[State, ...] = ("failed", "lost", "interrupted", "pending", "running", "queued")
_MOST = 10_000  # shards that are put into words for a table
# An item, a token, a number: what may differ between causes that are the same.
_VARYING = re.compile(r"((?<=at item ).*?(?=: )|\b[0-9a-f]{12}\b|\d+)")
_MOST_SHORT = 1000  # shards of which it is asked what they needed
_OWN_FAULT = ("error", "cuda-memory", "crashed")
_DIFFERS = "…"


class Group:
    """Shards in one state for one cause."""

    def __init__(self, first: ShardStatus, cause: str) -> None:
        self.first, self.state = first, first.state
        self.ranks = [first.rank]
        self._pieces = _VARYING.split(cause)

    def add(self, rank: int, cause: str) -> None:
        """Add a shard whose cause differs in numbers at most."""
        self.ranks.append(rank)
        for i, (mine, its) in enumerate(zip(self._pieces, _VARYING.split(cause), strict=True)):
            if mine != its:
                self._pieces[i] = _DIFFERS

    @property
    def cause(self) -> str:
        """What the causes have in common."""
        return one_line("".join(self._pieces))


class Groups(NamedTuple):
    """All shards that are not done; `left_out` is how many of them are in none of the groups."""

    groups: list[Group]
    left_out: int


def groups_of(seen: RunStatus) -> Groups:
    """Gather the shards that are not done, those that need somebody first."""
    found: dict[tuple[object, ...], Group] = {}
    taken = 0
    ranks = [rank for state in _ORDER for rank in seen.shards.ranks((state,))]
    for rank in ranks[:_MOST]:
        shard = seen.shards[rank]
        cause = seen.cause_of(shard)
        silent = rank in seen.progress.silent
        key = (_ORDER.index(shard.state), not silent, shard.kind, *_VARYING.split(cause)[::2])
        if key in found:
            found[key].add(rank, cause)
        else:
            found[key] = Group(shard, cause)
        taken += 1
    # Who is silent comes before those that run well.
    in_order = sorted(found, key=lambda key: key[:2])
    return Groups([found[key] for key in in_order], len(ranks) - taken)


def ranks_in_words(ranks: Sequence[int], width: int, dots: str = _DIFFERS) -> str:
    """Ranks as short as they can be said.

    Args:
        ranks: in order.
        width: how many characters there is room for.
        dots: what stands for those for which there is none.

    Example:
        >>> ranks_in_words([3, 4, 5, 9], 20), ranks_in_words(range(0, 99, 2), 20)
        ('3-5, 9', '0, 2, 4, 6, … (50)')
    """
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in _stretches(ranks)]
    whole = ", ".join(words)
    if len(whole) <= width:
        return whole
    end = f", {dots} ({len(ranks)})"
    while len(words) > 1 and len(", ".join(words)) + len(end) > width:
        words.pop()
    return ", ".join(words) + end


def _stretches(ranks: Iterable[int]) -> Iterator[tuple[int, int]]:
    first = last = -2
    for rank in ranks:
        if rank != last + 1:
            if last >= 0:
                yield first, last
            first = rank
        last = rank
    if last >= 0:
        yield first, last


def next_steps(seen: RunStatus, groups: Iterable[Group]) -> list[str]:
    """The commands that help now: to find out why, to go on, or to have the results.

    Args:
        seen: the state of the run.
        groups: of its shards that are not done.
    """
    collect = "collect", seen.run_dir, *(() if seen.merges else ("-o", "results.jsonl"))
    is_collected = seen.merged or (seen.finishing is not None and seen.finishing.state == "done")
    if seen.unreadable and not seen.live:
        return [command("resume", seen.run_dir, "--repair")]
    if seen.done:
        if seen.sound:
            return [] if seen.live or is_collected else [command(*collect)]
        which = "failed" if seen.failed_items else "skipped"
        again = [command("resume", seen.run_dir, "--items", which)]
        kept = [] if is_collected else [command(*collect, "--errors", "keep")]
        return [*kept, *([] if seen.live else again)]
    groups = list(groups)
    return [*_looks(seen, groups), *([] if seen.live else _resumption(seen, groups))]


def _looks(seen: RunStatus, groups: Sequence[Group]) -> list[str]:
    """Where to look after failures."""
    for group in groups:
        if group.state in ("failed", "lost"):
            place = seen.run_dir, str(group.first.rank)
            alone = [command("run-shard", *place)] if group.first.kind in _OWN_FAULT else []
            return [command("logs", *place), *alone]
    return []


def _resumption(seen: RunStatus, groups: Sequence[Group]) -> list[str]:
    """How to go on, where that can help: what your code raises it would raise again."""
    if seen.changed_sources:
        return [command("resume", seen.run_dir, "--code", "current")]
    if all(group.first.kind in _OWN_FAULT for group in groups):
        return []
    short = [rank for g in groups if g.first.kind in ("memory", "time") for rank in g.ranks]
    given: list[str] = []
    if short:
        from espnet3.submit.more import settings_for  # loads much, and is seldom needed

        shards = map(seen.shards.__getitem__, short[:_MOST_SHORT])
        more = settings_for(shards, seen.submissions, seen.progress.of_shards)
        given = [word for name, value in more.items() for word in ("--set", f"{name}={value}")]
    return [command("resume", seen.run_dir, *given)]
