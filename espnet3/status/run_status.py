"""What a status is: the state of every shard of a run, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

from espnet3.specs.models import Submission
from espnet3.status.finishing import Finishing
from espnet3.text import counted, duration, failed_and_skipped, one_line, plural

State = Literal["pending", "queued", "running", "done", "failed", "interrupted", "lost"]
STATES: tuple[State, ...] = (
    "done",
    "running",
    "queued",
    "pending",
    "interrupted",
    "failed",
    "lost",
)
Kind = Literal[
    "memory",
    "cuda-memory",
    "time",
    "preempted",
    "node",
    "cancelled",
    "error",
    "killed",
    "crashed",
    "silent",
    "refused",
    "not-submitted",
    "not-begun",
]
LIVE: frozenset[State] = frozenset({"queued", "running"})
NOT_DONE: frozenset[State] = frozenset(STATES) - {"done"}


class ShardStatus(NamedTuple):
    """The state of one shard.

    Attributes:
        rank: the shard.
        state: one of `STATES`.
        cause: why, for a person; "" where there is nothing to say.
        submission: number of the last submission that holds it, or None.
        task: its task there, or None.
        kind: what kind of cause that is, for a program (`docs/guide.md`); None for a shard
            that is done, queued or running.
        items_done: how many items its last attempt there had done when it ended.
        host: where that attempt ran, or None.
        elapsed: seconds from the start of its process to its end; None where it did not say.
        peak_memory: bytes that it has needed at most; None where it did not say.
    """

    rank: int
    state: State
    cause: str = ""
    submission: int | None = None
    task: int | None = None
    kind: Kind | None = None
    items_done: int = 0
    host: str | None = None
    elapsed: float | None = None
    peak_memory: int | None = None

    @property
    def words(self) -> str:
        """State and cause, for a person."""
        return f"{self.state}: {self.cause}" if self.cause else self.state


class Silence(NamedTuple):
    """A shard that is being computed, and of which no result has come for long.

    Attributes:
        seconds: for how long, by the times of its files beside this host's clock.
        position: of the item in the shard that it is at.
        item: that item; None where it cannot be read.
    """

    seconds: float
    position: int
    item: Any = None

    @property
    def words(self) -> str:
        """The same for a person, as in `no result for 25 min, at item 17`."""
        item = f"item {one_line(str(self.item), 60)}"
        if self.item is None:
            item = f"its item {self.position}"
        return f"no result for {duration(self.seconds)}, at {item}"


_NO_SHARDS: Mapping[int, Any] = {}  # no proxy: those cannot be pickled


class Progress(NamedTuple):
    """How far a run has come, by items.

    Attributes:
        done: how many items have a result: all of the shards that are done, and of others those
            that result files hold by now.
        of_shards: rank -> how many, for shards that are not done and hold any.
        per_second: items a second; None where nobody works, or nothing is known yet.
        seconds_left: after how many seconds all would be done at that rate; None as `per_second`.
        silent: rank -> since when nothing has come, for shards where that is long.
    """

    done: int = 0
    of_shards: Mapping[int, int] = _NO_SHARDS
    per_second: float | None = None
    seconds_left: float | None = None
    silent: Mapping[int, Silence] = _NO_SHARDS


NOTHING_KNOWN = Progress()


class Shards(Sequence[ShardStatus]):
    """What is known of all shards, by rank.

    As a list of them, but only their states are held: why a shard is in its state is put into words
    each time that it is looked at, since a run may have a million shards.

    Attributes:
        states: the shards' states, by rank.

    Example:
        >>> shards = Shards.of([ShardStatus(0, "done"), ShardStatus(1, "failed", "why")])
        >>> shards.states, shards[1].cause, len(shards)
        (['done', 'failed'], 'why', 2)
    """

    def __init__(self, states: list[State], describe: Callable[[int], ShardStatus]) -> None:
        self.states = states
        self._describe = describe

    @classmethod
    def of(cls, shards: Sequence[ShardStatus]) -> Shards:
        """Of shards that are described already, by rank."""
        return cls([shard.state for shard in shards], shards.__getitem__)

    @overload
    def __getitem__(self, index: int) -> ShardStatus: ...

    @overload
    def __getitem__(self, index: slice) -> list[ShardStatus]: ...

    def __getitem__(self, index: int | slice) -> ShardStatus | list[ShardStatus]:
        ranks = range(len(self.states))[index]
        return self._describe(ranks) if isinstance(ranks, int) else [*map(self._describe, ranks)]

    def __len__(self) -> int:
        return len(self.states)

    def __iter__(self) -> Iterator[ShardStatus]:
        return map(self._describe, range(len(self.states)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Shards | list) and list(self) == list(other)

    def __reduce__(self) -> tuple[Any, ...]:
        return Shards.of, (list(self),)

    def ranks(self, states: Container[State]) -> list[int]:
        """The shards that are in one of some states; none of them is put into words.

        >>> Shards.of([ShardStatus(0, "done"), ShardStatus(1, "lost")]).ranks(NOT_DONE)
        [1]
        """
        return [rank for rank, state in enumerate(self.states) if state in states]

    def __repr__(self) -> str:
        return f"Shards.of({list(self)!r})"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The states of all shards of a run, by rank.

    Attributes:
        run_dir: the run directory.
        shards: one entry for each rank, in order.
        scheduler_problem: why the scheduler could not be asked, or None. The states are then what
            the run directory alone can tell.
        n_items: how many items the run has.
        failed: rank -> how many of its items failed and were recorded (`on_error: record`), for
            the shards where any did; None where the receipt of a done one cannot be read.
        skipped: rank -> how many of its items were passed over (`resume --skip`), likewise; where a
            named item had a result already, an item that failed may be taken for it.
        submissions: number -> submission, of all that were made.
        finishing: how far a run that finishes itself has come; None for others.
        changed_sources: the user's source files that differ from those of the last submission;
            looked for where a shard is not done.
        progress: how many items are done, and how fast that goes.
        merges: whether its runner writes its results itself, so that `collect` calls its `merge`.
        merged: the output folder that `merge` has made of all shards, as they are; None where it
            has not, or nobody knows.
    """

    run_dir: str
    shards: Shards
    scheduler_problem: str | None = None
    n_items: int = 0
    failed: Mapping[int, int | None] = field(default_factory=dict)
    finishing: Finishing | None = None
    changed_sources: list[str] = field(default_factory=list)
    progress: Progress = NOTHING_KNOWN
    skipped: Mapping[int, int] = field(default_factory=dict)
    submissions: Mapping[int, Submission] = field(default_factory=dict, compare=False)
    merges: bool = False
    merged: str | None = None

    def __repr__(self) -> str:
        # asyncio.run of Python 3.11 makes the repr of what it returns, and throws it away.
        more = "".join(f", {words}" for words in self.items_in_words())
        return f"RunStatus({self.run_dir!r}, {self.counts()!r}{more})"

    @property
    def failed_items(self) -> int:
        """How many items failed and were recorded, as far as that is durable."""
        return sum(filter(None, self.failed.values()))

    @property
    def skipped_items(self) -> int:
        """How many items were passed over, as far as that is durable."""
        return sum(self.skipped.values())

    @property
    def unreadable(self) -> list[int]:
        """The shards whose receipt cannot be read; seen where receipts are read for errors."""
        return [rank for rank, errors in self.failed.items() if errors is None]

    @property
    def sound(self) -> bool:
        """Whether every shard is done, and each item too: `collect` does not refuse it."""
        return self.done and not self.failed and not self.skipped

    @property
    def needs_nobody(self) -> bool:
        """Whether it is sound, and no finisher has ended without the results (a full disk, say)."""
        ended = None if self.finishing is None or self.merged else self.finishing.state
        return self.sound and ended not in ("incomplete", "stopped")

    def progress_in_words(self) -> list[str]:
        """How far it has come, as in `32 of 100 items done`, `4.1 items/s`, `17 s left`.

        Nothing where shards tell it all: none has begun, or all are done.
        """
        done, _, pace, left, _ = self.progress
        if self.done or not done:
            return []
        found = [f"{done} of {counted(self.n_items, 'item')} done"]
        if pace is not None:
            found.append(f"{pace:.3g} items/s" if pace < 1000 else f"{pace:.0f} items/s")
        if left is not None:
            found.append(f"{duration(left)} left")
        return found

    def cause_of(self, shard: ShardStatus) -> str:
        """A shard's cause, and for how long it has been silent where that is long."""
        silence = self.progress.silent.get(shard.rank)
        return ", ".join(filter(None, (shard.cause, silence and silence.words)))

    def items_in_words(self) -> list[str]:
        """What is wrong with items, as in `8 of 30 items failed`, `2 skipped`."""
        found = failed_and_skipped(self.failed_items, self.skipped_items, of=self.n_items)
        if bad := self.unreadable:
            shown = ", ".join(map(str, bad[:5])) + (" …" if len(bad) > 5 else "")
            receipts, shards = plural(len(bad), "receipt"), plural(len(bad), "shard")
            found.append(f"the {receipts} of {shards} {shown} cannot be read")
        return found

    def sources_in_words(self) -> str:
        """Which source files differ, in a line; "" where none does."""
        files = self.changed_sources
        if not files:
            return ""
        more = f" and {len(files) - 3} more" if len(files) > 3 else ""
        shown = ", ".join(files[:3])
        return f"source files differ from those that were submitted: {shown}{more}"

    def counts(self) -> dict[State, int]:
        """How many shards are in each state that occurs."""
        found = Counter(self.shards.states)
        return {state: found[state] for state in STATES if found[state]}

    @property
    def done(self) -> bool:
        """Whether every shard has a receipt; items may have failed all the same, see `sound`."""
        return self.counts().keys() <= {"done"}

    @property
    def live(self) -> bool:
        """Whether anything is still queued or running, a finisher too."""
        finisher = self.finishing is not None and self.finishing.live
        return finisher or not LIVE.isdisjoint(self.shards.states)

    def not_done(self) -> list[ShardStatus]:
        """The shards that have no receipt, by rank."""
        return [self.shards[rank] for rank in self.shards.ranks(NOT_DONE)]

    def unfinished(self) -> dict[int, str]:
        """Rank -> state and cause, for every shard that is not done."""
        return {shard.rank: shard.words for shard in self.not_done()}
