"""What brings a run to its end, as a status tells it: its finisher, its waves, its end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.finishers import ON_THIS_HOST, Ending, KnownFinisher, queued_record
from espnet3.run_dir.processes import is_alive, is_busy
from espnet3.schedulers import get_scheduler
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.finishing import Finished, Finisher, Notified, QueuedFinisher, Wave
from espnet3.specs.models import now
from espnet3.text import counted, failed_and_skipped, one_line

FinishState = Literal["waiting", "working", "done", "incomplete", "stopped", "gone"]
# Seconds after which nobody of another host is believed to be queueing one any more.
_QUEUEING_ELSEWHERE = 600.0
_TO_COME: frozenset[FinishState] = frozenset({"waiting", "working"})


class Finishing(NamedTuple):
    """How far a run that finishes itself has come.

    Attributes:
        state: `waiting` and `working` are a finisher's; `done`, `incomplete` and `stopped` a run's
            end; `gone` is said where neither is to come.
        words: the same for a person.
        results: the collected file; None where there is none.
        waves: each wave in a line.
        problem: why nobody may have been told of the end: `notify` failed; None where it did not.
    """

    state: FinishState
    words: str
    results: str | None = None
    waves: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def live(self) -> bool:
        """Whether a finisher is to come, or is at work."""
        return self.state in _TO_COME


def finishing(
    ending: Ending,
    told: TaskState | None,
    *,
    answered: bool,
    cancelled: Mapping[int, str] = MappingProxyType({}),
) -> Finishing:
    """How far it has come.

    Args:
        ending: what the run directory says.
        told: what the scheduler says of the last finisher's job, if it says anything.
        answered: whether it was asked, and answered.
        cancelled: the submissions that were cancelled, each with the cause; "" for by somebody.
    """
    if ending.end is not None and ending.is_over:
        waves = tuple(wave.words for wave in ending.end.waves)
        words, problem = in_words(ending.end), _problem_of(ending.notified)
        return Finishing(ending.end.outcome, words, ending.end.results, waves, problem)
    waves = tuple(words_of(wave) for wave in ending.waves)
    last = ending.finishers[-1]
    number = last.finisher.number
    if last.queued is None and _is_being_queued(last.finisher):
        return Finishing("waiting", f"finisher {number} is being queued", waves=waves)
    state, words = _state_of(last, told, answered=answered)
    if state == "gone" and not last.refused and cancelled.get(last.finisher.submission) == "":
        words = "was cancelled with the run; `espnet3 resume` queues another one"
    return Finishing(state, f"finisher {number} {words}", waves=waves)


async def find_finisher(finisher: Finisher) -> QueuedFinisher | None:
    """The job of a finisher that nobody recorded, by its name; None where no scheduler tells one.

    Its submitter may have died before it could.
    """
    if finisher.scheduler in ON_THIS_HOST:  # there it records itself
        return None
    with contextlib.suppress(SchedulerUnavailable):
        scheduler = get_scheduler(finisher.scheduler)
        for job in await scheduler.find([finisher.job], finisher.submitter.user):
            return queued_record(finisher.number, job.job_id)
    return None


def _is_being_queued(finisher: Finisher) -> bool:
    """Whether its submitter lives, or may live on another host, whose processes nobody sees."""
    alive = is_busy(finisher.submitter, finisher.job.name)
    age = (now() - finisher.created).total_seconds()
    return age < _QUEUEING_ELSEWHERE if alive is None else alive


def _state_of(
    last: KnownFinisher, told: TaskState | None, *, answered: bool
) -> tuple[FinishState, str]:
    if last.refused or last.queued is None:
        why = "" if last.queued is None else f": {last.queued.refused}"
        return "gone", f"was not queued{why}; `espnet3 finish` queues another one"
    if last.finisher.scheduler in ON_THIS_HOST:
        alive = is_alive(last.queued.recorded_by)
        if alive is None:
            return "waiting", f"is a process of {last.queued.recorded_by.host}"
        if alive:
            return "waiting", f"waits as process {last.job_id}"
    elif not answered:
        return "waiting", f"is job {last.job_id}; the scheduler does not answer"
    elif told is not None and told.state == "queued":
        return "waiting", f"is queued as job {last.job_id}"
    elif told is not None and told.state == "running":
        return "working", f"is at work as job {last.job_id}"
    return "gone", f"ended without a word (job {last.job_id}); `espnet3 finish` queues another one"


def in_words(end: Finished) -> str:
    """An end in one line for a person.

    Example:
        >>> in_words(end)  # doctest: +SKIP
        'done: 1000 results in /shared/decode/results.jsonl'
    """
    if end.outcome == "done":
        if end.skipped is None and end.errors:  # version 1 does not tell them apart
            wrong = [f"{counted(end.errors, 'item')} failed or skipped"]
        else:
            wrong = failed_and_skipped(end.errors - (end.skipped or 0), end.skipped or 0)
        n = end.records - end.errors  # what failed has a record, and no result
        return ", ".join([f"done: {counted(n, 'result')} in {end.results}", *wrong])
    done = f"{end.n_done} of {counted(end.n_shards, 'shard')} done"
    return f"{end.outcome}: {done}; {end.cause}"


def with_a_shard(end: Finished) -> str:
    """The same for who sees no table of shards: why the first one is missing, too.

    Example:
        >>> with_a_shard(end)  # doctest: +SKIP
        'incomplete: 7 of 8 shards done; 3 waves spent; shard 4: killed by SIGKILL'
    """
    if end.outcome != "incomplete" or not end.unfinished:  # else its cause says it
        return in_words(end)
    first, n_more = end.unfinished[0], end.n_shards - end.n_done - 1
    more = f"; and {counted(n_more, 'shard')} more" if n_more else ""
    return f"{in_words(end)}; shard {first.rank}: {first.cause}{more}"


def _problem_of(notified: Notified | None) -> str | None:
    if notified is None or not notified.exit_code:
        return None
    printed = notified.output.strip().splitlines()
    last = f": {one_line(printed[-1], 200)}" if printed else ""
    file = layout.notified(notified.number)
    return f"notify ended with exit code {notified.exit_code}{last} ({file} has all of it)"


def words_of(wave: Wave) -> str:
    """A wave in one line for a person."""
    portions = ((len(portion.ranks), portion.cause) for portion in wave.portions)
    nodes = "".join(f"; not on {bad.node}: {bad.evidence}" for bad in wave.bad_nodes)
    return wave_words(wave.number, portions) + nodes


def wave_words(number: int, portions: Iterable[tuple[int, str]]) -> str:
    """A wave in one line.

    Args:
        number: the wave's.
        portions: how many shards, and why.

    Example:
        >>> wave_words(2, [(3, "out of memory at 4GB, now 6GB"), (1, "preempted")])
        'wave 2: 3 shards again (out of memory at 4GB, now 6GB), 1 shard again (preempted)'
    """
    by_cause: Counter[str] = Counter()
    for n, cause in portions:
        by_cause[cause] += n
    again = (f"{counted(n, 'shard')} again ({cause})" for cause, n in by_cause.items())
    return f"wave {number}: {', '.join(again)}"
