"""Where the hours went that were allocated. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from espnet3.report.model import Attempt, Facts
from espnet3.report.workers import Worker

Part = Literal["useful", "recomputed", "environment", "own", "unmeasured", "idle"]
PARTS: dict[Part, str] = {
    "useful": "in forward, for items that count",
    "recomputed": "in forward, for items that were computed more than once, or lost",
    "environment": "building the environment",
    "own": "reading, writing and checking results",
    "unmeasured": "at shards of which no record says more",
    "idle": "between shards, and waiting for others",
}
_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What became of the time that was allocated.

    A worker's time counts from its first sign, or the start of its process where a record tells
    that, to its last sign; what its job did before and after is nowhere said.

    Attributes:
        core_hours: hours of cores by what they went for.
        gpu_hours: hours of GPUs; likewise.
        cpu: share of the cores that was busy while attempts ran; None where nothing tells it.
        gpu: share of the GPUs; likewise.
        gpu_memory: the most bytes that were seen in use on one GPU; None likewise.
        waits: seconds from the submission to each worker's first sign, in order.
    """

    core_hours: dict[Part, float]
    gpu_hours: dict[Part, float]
    cpu: float | None
    gpu: float | None
    gpu_memory: int | None
    waits: list[float]

    @property
    def allocated(self) -> float:
        """Core hours in all."""
        return sum(self.core_hours.values())

    @property
    def useful(self) -> float | None:
        """The share of them that was useful; None where none was measured."""
        measured = self.core_hours["useful"] + self.core_hours["recomputed"] > 0
        return self.core_hours["useful"] / self.allocated if measured else None

    @property
    def waited(self) -> float:
        """Hours that workers waited, all together."""
        return sum(self.waits) / _HOUR

    @property
    def usual_wait(self) -> float:
        """Seconds that a worker waited, the median of all."""
        return median(self.waits) if self.waits else 0.0


def efficiency(facts: Facts, workers: Sequence[Worker]) -> Efficiency:
    """What became of the time of all workers."""
    asked = facts.asked()
    useful = _useful_shares(facts)
    cores: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    gpus: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    waits = []
    for worker in workers:
        submission = asked.get(worker.submission)
        for part, seconds in _parts_of(worker, useful).items():
            cores[part] += seconds / _HOUR * (submission.cores if submission else 1.0)
            gpus[part] += seconds / _HOUR * (submission.gpus if submission else 0)
        if submission is not None:
            since = submission.queued or submission.created
            waits.append(max(0.0, worker.start - since))
    measured = [(a.submission, a.usage) for a in facts.attempts if a.usage is not None]
    given = sum(
        (usage.seconds + usage.environment) * (asked[number].cores if number in asked else 1.0)
        for number, usage in measured
    )
    used = sum(usage.cpu for _, usage in measured)
    seen = [(u.gpu_utilisation, u.seconds) for _, u in measured if u.gpu_utilisation is not None]
    total = sum(seconds for _, seconds in seen)
    peaks = [u.peak_gpu_memory for _, u in measured if u.peak_gpu_memory is not None]
    return Efficiency(
        cores,
        gpus,
        used / given if given else None,
        sum(share * seconds for share, seconds in seen) / total if total else None,
        max(peaks, default=None),
        sorted(waits),
    )


def _useful_shares(facts: Facts) -> dict[int, float]:
    """Rank -> the share of the items computed for a shard that was not computed in vain."""
    computed: dict[int, int] = defaultdict(int)
    vouched: dict[int, int] = defaultdict(int)
    reached: dict[int, int] = defaultdict(int)
    for attempt in facts.attempts:
        computed[attempt.rank] += attempt.items
        if attempt.outcome == "done":
            vouched[attempt.rank] += attempt.reached
        reached[attempt.rank] = max(reached[attempt.rank], attempt.reached)
    whole = {rank: records for rank, _, records in facts.done}
    found = {}
    for rank, n in computed.items():
        durable = whole.get(rank, max(vouched[rank], reached[rank]))
        found[rank] = min(1.0, durable / n) if n else 0.0
    return found


def _parts_of(worker: Worker, useful: dict[int, float]) -> dict[Part, float]:
    """Seconds of a worker by what they went for."""
    found: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
    for attempt in worker.attempts:
        found["environment"] += attempt.environment
        _add(found, attempt, useful.get(attempt.rank, 0.0))
    known = sum(found.values())
    unmeasured = worker.busy - known
    if unmeasured > 0 and any(attempt.usage is None for attempt in worker.attempts):
        found["unmeasured"] += unmeasured
        known += unmeasured
    found["idle"] = max(0.0, worker.seconds - known)
    return found


def _add(found: dict[Part, float], attempt: Attempt, useful: float) -> None:
    usage = attempt.usage
    if usage is None:
        return
    share = useful if attempt.items else 0.0  # without an item nothing of it is kept
    forward = min(usage.forward, usage.seconds)
    found["useful"] += share * forward
    found["recomputed"] += (1.0 - share) * forward
    found["own"] += usage.seconds - forward
