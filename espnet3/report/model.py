"""What is known of a run, as a report needs it: plain values, no files.

Times are seconds since 1970 by the clock of whoever wrote the record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from espnet3.specs.models import Usage
from espnet3.status.run_status import Kind, State

Outcome = Literal["done", "failed", "interrupted", "running", "lost"]
OUTCOMES: tuple[Outcome, ...] = ("done", "running", "interrupted", "failed", "lost")
Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of one shard by one worker.

    Attributes:
        rank: the shard.
        name: the attempt's own.
        submission: number of the submission that it belongs to.
        worker: who it was, as in `0001/3` for task 3 of submission 1.
        host: where; "" where no record says it.
        outcome: what it came to; `lost` where nobody said so and it does not run any more.
        start: when it began; None where no record says it.
        end: when it ended, or was last seen; None where no record says it.
        items: how many items it has computed, as far as that is known.
        reached: how many items of the shard were durable when it ended, as far as that is known.
        usage: what it took; None where it did not say.
        peak_memory: bytes; likewise.
        process_start: when its worker's process began; likewise.
    """

    rank: int
    name: str
    submission: int
    worker: str
    host: str = ""
    outcome: Outcome = "lost"
    start: float | None = None
    end: float | None = None
    items: int = 0
    reached: int = 0
    usage: Usage | None = None
    peak_memory: int | None = None
    process_start: float | None = None

    @property
    def seconds(self) -> float:
        """How long it is known to have taken; 0 where that is not known."""
        if self.start is None or self.end is None:
            return 0.0
        return max(0.0, self.end - self.start)

    @property
    def environment(self) -> float:
        """Seconds that building the environment took before it began."""
        return self.usage.environment if self.usage is not None else 0.0


@dataclass(frozen=True, slots=True)
class Sign:
    """When a worker that claims shards said something of itself for the first and the last time."""

    worker: str
    submission: int
    started: float
    last: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A submission: what was asked for, and what the scheduler made of it.

    Attributes:
        number: the submission's.
        created: when it was decided.
        queued: when its jobs were recorded as accepted; None where they were not.
        scheduler: of which batch system.
        schedule: `static` or `dynamic`.
        n_shards: how many shards it holds.
        n_tasks: how many workers it has.
        cores: that each worker is given.
        gpus: likewise.
        memory: bytes that each worker is given; None where it is not limited, or not known.
        memory_option: the option by which it is; None where there is none.
        jobs: ids of its jobs.
        command: the submit command.
        typed: what a person typed, or a finisher was called with; "" where nobody noted it.
        remark: why it was cancelled or refused; "" where it was not.
    """

    number: int
    created: float
    queued: float | None = None
    scheduler: str = ""
    schedule: str = "static"
    n_shards: int = 1
    n_tasks: int = 1
    cores: float = 1.0
    gpus: int = 0
    memory: int | None = None
    memory_option: str | None = None
    jobs: tuple[str, ...] = ()
    command: str = ""
    typed: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception of the user's code, as a record tells it; `item` is that which failed.

    `recorded` says that the item's result is this error (`on_error: record`).
    """

    rank: int
    type: str
    message: str
    traceback: str = ""
    item: str = ""
    host: str = ""
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A shard that is not done."""

    rank: int
    state: State
    kind: Kind | None = None
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """All that is known of a run.

    Attributes:
        run_dir: the run directory.
        runner: the class whose `forward` was called.
        n_items: how many items the run has.
        n_shards: how many shards.
        created: when the run was planned.
        states: state -> how many shards are in it.
        live: whether anything is queued or running.
        looked: when it was looked at, where anything is; None elsewhere, so that nothing changes.
        failed_items: how many items were recorded as failed.
        failures: exceptions, each with the shard; of those that were recorded as results, some.
        unfinished: the shards that are not done.
        submissions: in order.
        attempts: those that left a word, by shard.
        done: of each receipt its shard, when it was made, and of how many items it is.
        signs: of workers that claim shards.
        waves: of the finisher, a line each; the run's end behind them.
        what: what ran, as names and values.
        config: what was configured, as text.
        code: the user's source files: name, size, checksum.
        problems: what could not be read, or asked.
    """

    run_dir: str
    runner: str
    n_items: int
    n_shards: int
    created: float
    states: dict[State, int]
    live: bool = False
    looked: float | None = None
    failed_items: int = 0
    failures: tuple[Failure, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    submissions: tuple[Asked, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    done: tuple[tuple[int, float, int], ...] = ()
    signs: tuple[Sign, ...] = ()
    waves: tuple[str, ...] = ()
    what: tuple[tuple[str, str], ...] = ()
    config: str = ""
    code: tuple[Row, ...] = ()
    problems: tuple[str, ...] = ()

    def asked(self) -> dict[int, Asked]:
        """Number -> submission."""
        return {asked.number: asked for asked in self.submissions}

    def latest(self) -> float:
        """When it was looked at; of what is over, the time of the last word that anybody left."""
        return max(self._times(), default=self.created)

    def _times(self) -> Iterable[float]:
        yield from (attempt.end for attempt in self.attempts if attempt.end is not None)
        yield from (attempt.start for attempt in self.attempts if attempt.start is not None)
        yield from (sign.last for sign in self.signs)
        yield from (time for _, time, _ in self.done)
        yield from () if self.looked is None else (self.looked,)
        yield from (asked.queued or asked.created for asked in self.submissions)
