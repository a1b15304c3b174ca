"""What a soak counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields


@dataclass
class Tally:
    """Sums over runs.

    Attributes:
        faults: how many of each kind were injected.
        runs, shards, items: how much was computed.
        resumes: how many were needed until all was done.
        waves, finishers: of the runs that finish themselves.
        stalled: those of them that ended since a wave got no further, as they should.
        lost: items that were not in the answer, or wrong there.
        duplicated: items that were computed again after they were durable, or are twice in the
            answer.
        unnoticed: damages that collect did not report.
        problems: what else went wrong, for a person.
    """

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    shards: int = 0
    items: int = 0
    resumes: int = 0
    waves: int = 0
    finishers: int = 0
    stalled: int = 0
    lost: int = 0
    duplicated: int = 0
    unnoticed: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what another one counted."""
        for entry in fields(self):
            mine = getattr(self, entry.name)
            mine += getattr(other, entry.name)
            setattr(self, entry.name, mine)

    @property
    def bad(self) -> bool:
        """Whether a promise was broken."""
        return bool(self.lost or self.duplicated or self.unnoticed or self.problems)

    def report(self) -> str:
        """The figures, as a table."""
        lines = [f"{sum(self.faults.values()):6} faults injected"]
        lines += [f"{n:6}   {kind}" for kind, n in self.faults.most_common()]
        lines += [f"{self.runs:6} runs", f"{self.shards:6} shards", f"{self.items:6} items"]
        lines += [f"{self.finishers:6} finishers", f"{self.waves:6} waves"]
        lines += [f"{self.stalled:6} ended where a wave got no further"]
        lines += [f"{self.resumes:6} resumes needed", f"{self.lost:6} lost"]
        lines += [f"{self.duplicated:6} duplicated", f"{self.unnoticed:6} damaged unnoticed"]
        return "\n".join(lines)
