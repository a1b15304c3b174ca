"""Computing the items of a shard: the loop around the user's `forward`."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal

import orjson

from espnet3._structs import Struct
from espnet3.errors import ForwardFailed, TooManyErrors, WorkError, WriterFailed
from espnet3.run_dir import result_lines
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs.models import RunSpec, Submission
from espnet3.worker.attempt import (
    SchedulerTask,
    describe,
    error_record,
    let_go,
    log_traceback,
)
from espnet3.worker.early_end import EarlyEnd
from espnet3.worker.result_writer import ResultWriter
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.skipping import skips_of
from espnet3.worker.usage import Spent

log = logging.getLogger("espnet3.worker")
SIGNAL_GRACE = 0.2  # seconds
_COUNT_EVERY = 0.01  # seconds, at least
_FEW, _MANY = 64, 1024  # items between two looks at the clock: clocked ones, and others
_Left = Iterable[tuple[Any, tuple[bytes, bool] | None]]


class Limits(Struct):
    """What a submission says of failing items; see `Submission`.

    `on_error` is None where there is no submission: what the plan says counts then. `skip`: rank ->
    position -> why.
    """

    max_errors: int | None = None
    errors_from_submission: int = 0
    on_error: Literal["stop", "record"] | None = None
    skip: Mapping[int, Mapping[int, str]] = MappingProxyType({})
    one_by_one: int = 0


NO_LIMITS = Limits()


def limits_of(submission: Submission, run: RunSpec) -> Limits:
    """What a submission says of failing items."""
    return Limits(
        submission.max_errors, submission.errors_from_submission, submission.on_error(run.on_error),
        skips_of(submission), submission.one_by_one,
    )  # fmt: skip


class Work(Struct):
    """What all shards of a process share."""

    directory: RunDirectory
    run: RunSpec
    forward: Callable[..., Any]
    env: Mapping[str, Any]
    signals: Signals
    place: SchedulerTask
    limits: Limits = NO_LIMITS
    early_end: EarlyEnd | None = None
    runner: type[Any] | None = None


class Tally:
    """How many items of a shard were taken over, and how many failed."""

    def __init__(self, rank: int, max_errors: int | None, errors: int) -> None:
        self.rank, self.max_errors = rank, max_errors
        self.copied, self.errors = 0, errors
        self._require_few()

    def count_error(self, item: Any = None, error: str = "") -> None:
        """Count a failed item.

        Raises:
            TooManyErrors: it is one too many.
        """
        self.errors += 1
        self._require_few(item, error)

    def _require_few(self, item: Any = None, error: str = "") -> None:
        if self.max_errors is not None and self.errors > self.max_errors:
            raise TooManyErrors(self.rank, self.max_errors, self.errors, item, error)


def on_copies(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` on a copy of each item: what it does to it must not get into the result line."""

    def on_copy(item: Any, /, **env: Any) -> Any:
        return forward(orjson.loads(orjson.dumps(item)), **env)

    return on_copy


def compute_items(
    work: Work, writer: ResultWriter, left: _Left, tally: Tally, spent: Spent
) -> None:
    """Call `forward` for each item of which no predecessor left a good line.

    Args:
        work: what all shards share.
        writer: takes the results.
        left: the items, each with the line and whether that is an error, or None.
        tally: counts errors, and what was copied.
        spent: notes how long items take; fast ones share what passes, so that it costs nothing.
    """
    left, found, is_fast, pause = iter(left), True, False, 0.0
    clocked = work._replace(forward=spent.clocked(work.forward))
    spent.start_clock(writer.waited)
    try:
        while found:
            some = islice(left, _MANY if is_fast else _FEW)
            found = _compute_some(work if is_fast else clocked, writer, some, tally)
            if found and spent.uncounted_seconds > pause:
                pause = _COUNT_EVERY
                is_fast = spent.count(writer.added - tally.copied, writer.waited)
    finally:
        with contextlib.suppress(Exception):  # what is raised already says more
            spent.count(writer.added - tally.copied, writer.waited)


def _compute_some(work: Work, writer: ResultWriter, left: _Left, tally: Tally) -> bool:
    """Some items; False where there were none."""
    forward, env, signals, add = work.forward, work.env, work.signals, writer.add
    on_error = work.limits.on_error or work.run.on_error
    as_json = work.run.results == "json" or work.run.writers is not None
    encode_result = result_lines.encode_json if as_json else result_lines.encode_pickle
    item = nothing = object()
    for item, kept in left:
        if signals.received is not None:  # looked at here: a call would cost a tenth of the loop
            signals.check()
        if kept is not None:
            line, is_error = kept
            if is_error:
                tally.count_error()
            tally.copied += 1
            add(line)
            continue
        try:
            try:
                signals.armed = True
                result = forward(item, **env)
                if signals.received is not None:  # code that swallowed it came to any result
                    signals.check()
            except Interrupted:
                raise
            except BaseException as error:  # the user's code, which may call sys.exit
                # A signal for the whole job ends what the item runs too, perhaps a moment before
                # it comes here: that is not a failure. Recorded errors are looked at by salvage.
                wrote = isinstance(error, WriterFailed)
                if on_error == "stop" or wrote:
                    time.sleep(SIGNAL_GRACE)
                signals.check()
                error = let_go(error)
                if wrote:
                    raise
                raise ForwardFailed(item, describe(error)) from error
            finally:
                signals.armed = False
            line = encode_result(item, result)
        except WorkError as error:
            if on_error == "stop" or isinstance(error, WriterFailed):
                raise
            details = error_record(error.__cause__ or error)
            log.error("%s", error)
            log_traceback(error)
            # One too many is not written, so that a resume begins with it.
            tally.count_error(item, f"{details.type}: {details.message}")
            line = result_lines.encode_error(item, details)
        add(line)
    return item is not nothing
