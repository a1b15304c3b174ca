"""The state of a run as lines in a pipe, and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from espnet3.cli import show
from espnet3.cli.shard_logs import NO_LOGS, ShardLog, ShardLogs
from espnet3.text import counted, one_line, visible_line

if TYPE_CHECKING:
    from espnet3.status.run_status import RunStatus, ShardStatus

# What changes from one look to the next while nothing happens.
_FLEETING = frozenset({"items_per_second", "seconds_left", "silent"})


def status_document(seen: RunStatus) -> dict[str, Any]:
    """`status --json`."""
    return {
        "run_dir": seen.run_dir,
        "world_size": len(seen.shards),
        "counts": seen.counts(),
        "done": seen.done,
        "live": seen.live,
        "sound": seen.sound,
        "needs_nobody": seen.needs_nobody,
        "items": seen.n_items,
        "items_done": seen.progress.done,
        "failed_items": seen.failed_items,
        "skipped_items": seen.skipped_items,
        "items_per_second": seen.progress.per_second,
        "seconds_left": seen.progress.seconds_left,
        "unreadable_receipts": seen.unreadable,
        "scheduler_problem": seen.scheduler_problem,
        "finishing": None if seen.finishing is None else seen.finishing._asdict(),
        "merged": seen.merged,
        "changed_sources": seen.changed_sources,
        "shards": [_shard_document(seen, shard) for shard in seen.shards],
    }


def _shard_document(seen: RunStatus, shard: ShardStatus) -> dict[str, Any]:
    """A shard in `status --json`; some fields only where they say something."""
    rank, progress = shard.rank, seen.progress
    found: dict[str, Any] = {
        "rank": rank,
        "state": shard.state,
        "cause": shard.cause,
        "submission": shard.submission,
        "task": shard.task,
    }
    if shard.kind is not None:
        found["kind"] = shard.kind
    if shard.state != "done":
        found["items_done"] = progress.of_shards.get(rank, 0)
    if rank in progress.silent:
        found["silent"] = progress.silent[rank]._asdict()
    if rank in seen.skipped:
        found["skipped_items"] = seen.skipped[rank]
    return {**found, "failed_items": seen.failed.get(rank, 0)}


def counts_line(seen: RunStatus) -> str:
    """The counts in one line.

    As in `38 of 40 shards done, 1 running, 3 of 400 items failed, 1 skipped`.
    """
    words = [words for words, _ in shard_counts(seen)]
    return ", ".join([*words, *seen.progress_in_words(), *seen.items_in_words()])


def shard_counts(seen: RunStatus) -> list[tuple[str, str]]:
    """How many shards are in each state, in words, and that state."""
    counts = seen.counts()
    done = f"{counts.get('done', 0)} of {counted(len(seen.shards), 'shard')} done"
    return [(done, "done"), *((f"{n} {s}", s) for s, n in counts.items() if s != "done")]


def finishing_lines(seen: RunStatus) -> list[str]:
    """The waves of a run that finishes itself, and what comes next or came last."""
    found = seen.finishing
    problem = [one_line(found.problem)] if found is not None and found.problem else []
    if seen.merged and (found is None or found.state != "done"):  # else that says where
        return [f"merged into {one_line(seen.merged, 10_000)}", *problem]
    return [] if found is None else [*map(one_line, (*found.waves, found.words)), *problem]


def shard_line(seen: RunStatus, shard: ShardStatus, log: ShardLog | None = None) -> str:
    """A shard in one line: rank, state, submission, task, cause and log, with tabs between."""
    place = ("-" if n is None else str(n) for n in (shard.submission, shard.task))
    cause = seen.cause_of(shard)
    if log is not None and log.end and shard.state == "lost":
        cause = f"{cause}; its log ends: {log.end}"
    more = [] if log is None else [visible_line(log.path)]
    return "\t".join([str(shard.rank), shard.state, *place, one_line(cause), *more])


def shard_lines(seen: RunStatus, logs: Mapping[int, ShardLog] = MappingProxyType({})) -> None:
    """Print a line for each shard that is not done."""
    for shard in seen.not_done():
        show.say(shard_line(seen, shard, logs.get(shard.rank)))


def status_lines(seen: RunStatus) -> None:
    """Print the state of a run, a line for each shard that is not done."""
    if seen.scheduler_problem:
        show.problem(seen.scheduler_problem)
    if seen.changed_sources:
        show.problem(seen.sources_in_words())
    show.say(counts_line(seen))
    shard_lines(seen, ShardLogs().of_failures(seen))
    for line in finishing_lines(seen):
        show.say(line)


class Follower:
    """Shows a run while it goes on; in a pipe one line whenever the counts change.

    Of items that is where a whole percent of them more is done, so that a log stays short.
    """

    def __init__(self) -> None:
        self._last: tuple[object, ...] = ()
        self._problem: str | None = None
        self._told: set[str] = set()
        self._logs: Mapping[int, ShardLog] = NO_LOGS

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def look_at_logs(self, seen: RunStatus) -> None:
        """Find the logs that will be shown; it reads files, and is called in a thread."""
        if not seen.live:
            self._logs = ShardLogs().of_failures(seen)

    def update(self, seen: RunStatus) -> None:
        """Show another look at the run."""
        if seen.scheduler_problem and seen.scheduler_problem != self._problem:
            show.problem(seen.scheduler_problem)
        self._problem = seen.scheduler_problem
        percent = 100 * seen.progress.done // max(1, seen.n_items)
        counts = (*shard_counts(seen), percent, *seen.items_in_words())
        if counts != self._last:
            show.say(counts_line(seen))
        self._last = counts
        for line in finishing_lines(seen):
            if line not in self._told:
                show.say(line)
                self._told.add(line)
        sys.stdout.flush()

    def end(self, seen: RunStatus) -> None:
        """Show what the run came to."""
        shard_lines(seen, self._logs)


class JsonFollower(Follower):
    """Prints one JSON document in a line whenever something has changed."""

    def look_at_logs(self, seen: RunStatus) -> None:
        pass

    def update(self, seen: RunStatus) -> None:
        document = status_document(seen)
        lasting = {name: value for name, value in document.items() if name not in _FLEETING}
        lasting["shards"] = [
            {name: value for name, value in shard.items() if name not in _FLEETING}
            for shard in document["shards"]
        ]
        if (lasting,) != self._last:
            click.echo(show.json_text(document))
            sys.stdout.flush()
        self._last = (lasting,)

    def end(self, seen: RunStatus) -> None:
        pass  # the last document says it
