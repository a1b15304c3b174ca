"""Who was at work, and when. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from espnet3.report.model import Attempt, Facts, Outcome

Shade = Literal["done", "running", "interrupted", "failed", "lost", "environment"]
SHADES: tuple[Shade, ...] = ("done", "running", "interrupted", "failed", "lost", "environment")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which a worker was busy with something."""

    start: float
    end: float
    shade: Shade


@dataclass(frozen=True, slots=True)
class Worker:
    """One row of a timeline: a worker, which may have been several processes of one task.

    Attributes:
        name: as in `0001/3`.
        submission: number of its submission.
        host: where; several where it was requeued.
        start: when its process began, where a record tells that; else when it was seen first,
            environment included.
        end: when it was seen last.
        attempts: in the order of their beginnings.
        stretches: what it did, in order; nothing stands for what it did between.
    """

    name: str
    submission: int
    host: str
    start: float
    end: float
    attempts: tuple[Attempt, ...]
    stretches: tuple[Stretch, ...]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """How many of its attempts came to what."""
        return Counter(attempt.outcome for attempt in self.attempts)

    @property
    def seconds(self) -> float:
        """From its first sign to its last one."""
        return self.end - self.start

    @property
    def busy(self) -> float:
        """Seconds that it was at a shard, or at its environment."""
        return sum(stretch.end - stretch.start for stretch in self.stretches)


def lived(workers: Sequence[Worker]) -> float:
    """Seconds in which any of some workers was there: pauses between submissions are left out.

    Example:
        >>> lived([Worker("a", 1, "", 0, 10, (), ()), Worker("b", 1, "", 5, 12, (), ()),
        ...        Worker("c", 2, "", 5000, 5008, (), ())])
        20.0
    """
    found, until = 0.0, float("-inf")
    for start, end in sorted((worker.start, worker.end) for worker in workers):
        found += max(0.0, end - max(start, until))
        until = max(until, end)
    return found


def workers_of(facts: Facts) -> list[Worker]:
    """All workers of which it is known when they were there, in the order of their tasks."""
    by_worker: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in facts.attempts:
        by_worker[attempt.worker].append(attempt)
    signs = {sign.worker: sign for sign in facts.signs}
    latest, found = facts.latest(), []
    for name in {**dict.fromkeys(by_worker), **dict.fromkeys(signs)}:
        attempts = sorted(by_worker.get(name, ()), key=lambda a: (a.start or a.end or 0.0, a.rank))
        sign = signs.get(name)
        stretches = [*_stretches(attempts, latest)]
        times = [time for s in stretches for time in (s.start, s.end)]
        times += [a.process_start for a in attempts if a.process_start is not None]
        times += [] if sign is None else [sign.started, sign.last]
        if not times:
            continue
        submission = attempts[0].submission if attempts else signs[name].submission
        hosts = dict.fromkeys(attempt.host for attempt in attempts if attempt.host)
        found.append(
            Worker(
                name, submission, " ".join(hosts), min(times), max(times),
                tuple(attempts), tuple(stretches),
            )
        )  # fmt: skip
    return sorted(found, key=lambda worker: _order(worker.name))


def _order(name: str) -> tuple[str, bool, int, str]:
    submission, _, task = name.partition("/")
    return submission, not task.isdecimal(), int(task) if task.isdecimal() else 0, task


def _stretches(attempts: Sequence[Attempt], latest: float) -> Iterator[Stretch]:
    """What a worker did, none of it before what it did before that had ended."""
    before = float("-inf")
    starts = [attempt.start for attempt in attempts if attempt.start is not None]
    for attempt in attempts:
        begun = attempt.end if attempt.start is None else attempt.start
        if begun is None:
            continue
        start = max(begun, before)
        if attempt.environment:
            built = max(before, begun - attempt.environment)
            if built < start:
                yield Stretch(built, start, "environment")
        end = attempt.end
        if end is None:  # it was there until it began something else, as far as anybody knows
            later = [other for other in starts if other > start]
            end = latest if attempt.outcome == "running" else min(later, default=start)
        end = max(end, start)
        yield Stretch(start, end, attempt.outcome)
        before = end
