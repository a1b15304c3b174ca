"""Computing one shard: salvage, run, receipt."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

import orjson

from espnet3.errors import (
    EspnetError,
    FileMissing,
    FileTaken,
    ForwardFailed,
    TooManyErrors,
    UnserializableResult,
    UsageError,
    WorkError,
)
from espnet3.redaction import scrubbed
from espnet3.run_dir import result_lines
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.items import batched, may_change
from espnet3.specs.models import (
    AttemptRecord,
    ErrorRecord,
    Receipt,
    ResultPart,
    RunSpec,
    Submission,
    now,
)
from espnet3.text import cut, one_line
from espnet3.worker.receipt_history import read_receipt_history
from espnet3.worker.result_writer import ResultWriter
from espnet3.worker.salvage import NOTHING, Salvage, later_lines, salvage
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.spare_descriptors import Spare

log = logging.getLogger("espnet3.worker")
LARGE_ITEM = 1 << 16  # bytes
SIGNAL_GRACE = 0.2  # seconds
_WITH_ITEM = ForwardFailed | UnserializableResult | TooManyErrors
_BEGAN = time.monotonic()  # of this process, nearly


class SchedulerTask(NamedTuple):
    """Where an attempt runs: its task and job, for the attempt records."""

    task: int | None
    job_id: str | None


class Limits(NamedTuple):
    """What a submission says of failing items; see `Submission`.

    `on_error` is None where there is no submission: what the plan says counts then.
    """

    max_errors: int | None = None
    errors_from_submission: int = 0
    on_error: Literal["stop", "record"] | None = None


NO_LIMITS = Limits()


def limits_of(submission: Submission, run: RunSpec) -> Limits:
    """What a submission says of failing items."""
    return Limits(
        submission.max_errors, submission.errors_from_submission, submission.on_error(run.on_error)
    )


class Work(NamedTuple):
    """What all shards of a process share."""

    directory: RunDirectory
    run: RunSpec
    forward: Callable[..., Any]
    env: Mapping[str, Any]
    signals: Signals
    place: SchedulerTask
    limits: Limits = NO_LIMITS


class Attempt:
    """One execution of one shard, and the records that it leaves.

    The generation of its receipt is settled before it begins: where that receipt is withdrawn
    meanwhile, its name stays taken, and what this attempt believed is not vouched for.
    """

    def __init__(
        self,
        directory: RunDirectory,
        run: RunSpec,
        rank: int,
        submission_number: int,
        place: SchedulerTask,
        generation: int,
        spare: Spare,
    ) -> None:
        self.directory, self.run, self.rank, self.place = directory, run, rank, place
        self.generation, self.spare = generation, spare
        self.name = layout.new_attempt(submission_number)

    def record(self, event: str, *, durable: bool = True, **details: Any) -> None:
        """Write one event of this attempt.

        How it ended is said in the job's log alone where the storage does not take it.

        Raises:
            UsageError, FileMissing: the directory belongs to another run by now, or was removed.
            StoreError: that the attempt `started` cannot be written.
        """
        if event == "started":
            return self._record(event, durable, details)
        try:
            with self.spare.room():
                self._record(event, durable, details)
        except (FileMissing, UsageError):
            raise
        except Exception as error:  # noqa: BLE001 (nor a shortage that is the reason itself)
            log.error("shard %d: that it %s cannot be recorded: %s", self.rank, event, error)

    def _record(self, event: str, durable: bool, details: Mapping[str, Any]) -> None:
        self.directory.require_run(self.run.run_id)
        record = AttemptRecord(
            event=event,  # type: ignore[arg-type]
            rank=self.rank,
            attempt=self.name,
            generation=self.generation,
            task=self.place.task,
            job_id=self.place.job_id,
            host=os.uname().nodename,
            pid=os.getpid(),
            time=now(),
            elapsed=round(time.monotonic() - _BEGAN, 3),
            **details,
        )
        self.directory.publish(record, durable=durable)


def _require_wanted(directory: RunDirectory, run_id: str) -> None:
    """At a checkpoint: an open file of a run that is gone would take results, and lose them."""
    try:
        directory.require_run(run_id)
    except EspnetError as error:  # whether results can be written shows when they are
        if isinstance(error, FileMissing | UsageError):
            raise


def error_record(error: BaseException) -> ErrorRecord:
    """An exception as it is persisted: of text that is longer than 64 KiB the middle is cut."""
    text = "".join(traceback.format_exception(error))
    return ErrorRecord(
        type=one_line(type(error).__name__, 200),
        message=cut(_message(error)),
        traceback=cut(_printable(text)),
    )


def _item_of(error: EspnetError) -> Any:
    """The item that an error is about; None for a large one, which would fill the record."""
    if not isinstance(error, _WITH_ITEM) or len(orjson.dumps(error.item)) > LARGE_ITEM:
        return None
    return error.item


def describe(error: BaseException) -> str:
    """An exception on one line: `Type: message`."""
    message = one_line(_message(error))
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def _message(error: BaseException) -> str:
    try:
        return _printable(str(error))
    except Exception:  # noqa: BLE001 (`__str__` is the user's code too)
        return "its message cannot be shown"


def _printable(text: str) -> str:
    """The text without secrets and lone surrogates, which cannot be written as UTF-8."""
    return scrubbed(text.encode(errors="backslashreplace").decode())


def as_ours(error: Exception) -> EspnetError:
    """An error of the worker as one that says so, unless it was raised on purpose."""
    if not isinstance(error, EspnetError):
        cause, error = error, EspnetError(f"the worker failed: {describe(error)}")
        error.__cause__ = cause
    return error


def log_traceback(error: EspnetError) -> None:
    """Write the traceback of the user's code to the job's log, where one looks for it."""
    if error.__cause__ is not None:
        log.error("%s", error_record(error.__cause__).traceback)


def compute_shard(work: Work, attempt: Attempt, earlier: Iterable[layout.ResultFile]) -> bool:
    """Compute one shard to its receipt, going on from what earlier attempts left.

    Args:
        work: what all shards of this process share.
        attempt: this attempt.
        earlier: the result files of earlier attempts at this shard.

    Returns:
        Whether the shard has a receipt now. If not, the attempt has a record that says why.

    Raises:
        Interrupted: a signal came; what was done is kept and the attempt recorded as interrupted.
        UsageError: the directory belongs to another run by now; nothing is recorded.
    """
    directory, run = work.directory, work.run
    store = directory.store
    salvaged, writer = NOTHING, None
    try:
        attempt.record("started", durable=False)
        inputs = directory.shard(run, attempt.rank).items
        items = batched(inputs, run.batch_size)
        if run.batch_size is not None or may_change(inputs):
            work = work._replace(forward=_on_copies(work.forward))
        if earlier:
            history = read_receipt_history(
                store, run, attempt.rank, attempt.generation, work.limits.errors_from_submission
            )
            salvaged = salvage(store, earlier, items, history)
        if salvaged.records:
            log.info("shard %d: %d items are done already", attempt.rank, salvaged.records)
        with ResultWriter(
            store,
            attempt.rank,
            attempt.name,
            salvaged.records,
            run.checkpoint_every,
            before_file=lambda: directory.require_run(run.run_id),
            before_checkpoint=lambda: _require_wanted(directory, run.run_id),
        ) as writer:
            tally = _Tally(attempt.rank, work.limits.max_errors, salvaged.errors)
            todo = items[salvaged.records :] if salvaged.records else items
            left = zip(todo, later_lines(store, salvaged, items), strict=False)
            _compute_items(work, writer, left, tally)
            parts = writer.finish()
        _publish_receipt(work, attempt, salvaged, parts, tally)
    except Interrupted as signal:
        done = salvaged.records + (writer.added if writer else 0)
        log.warning("shard %d: interrupted by %s after %d items", attempt.rank, signal, done)
        attempt.record("interrupted", cause=f"signal {signal}", items_done=done)
        raise
    except Exception as raised:  # noqa: BLE001 (a shortage of memory or threads, say)
        done = salvaged.records + (writer.added if writer else 0)
        _record_failure(attempt, as_ours(raised), done)
        return False
    return True


def _record_failure(attempt: Attempt, error: EspnetError, done: int) -> None:
    """Say in the log and in an attempt's record why it failed, and after how many items."""
    details = error_record(error.__cause__ or error)
    log.error("shard %d: failed after %d items: %s", attempt.rank, done, error)
    log_traceback(error)
    attempt.record(
        "failed",
        cause=one_line(str(error)),
        error=details,
        item=_item_of(error),
        items_done=done,
    )


class _Tally:
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


def _on_copies(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` on a copy of each item: what it does to it must not get into the result line."""

    def on_copy(item: Any, /, **env: Any) -> Any:
        return forward(orjson.loads(orjson.dumps(item)), **env)

    return on_copy


def _compute_items(
    work: Work,
    writer: ResultWriter,
    left: Iterable[tuple[Any, tuple[bytes, bool] | None]],
    tally: _Tally,
) -> None:
    """Call `forward` for each item of which no predecessor left a good line."""
    forward, env, signals, add = work.forward, work.env, work.signals, writer.add
    on_error = work.limits.on_error or work.run.on_error
    as_json = work.run.results == "json"
    encode_result = result_lines.encode_json if as_json else result_lines.encode_pickle
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
                if on_error == "stop":
                    time.sleep(SIGNAL_GRACE)
                signals.check()
                raise ForwardFailed(item, describe(error)) from error
            finally:
                signals.armed = False
            line = encode_result(item, result)
        except WorkError as error:
            if on_error == "stop":
                raise
            details = error_record(error.__cause__ or error)
            log.error("%s", error)
            log_traceback(error)
            # One too many is not written, so that a resume begins with it.
            tally.count_error(item, f"{details.type}: {details.message}")
            line = result_lines.encode_error(item, details)
        add(line)


def _publish_receipt(
    work: Work, attempt: Attempt, salvaged: Salvage, parts: list[ResultPart], tally: _Tally
) -> None:
    """Vouch for the results, unless another attempt was first."""
    receipt = Receipt(
        rank=attempt.rank,
        attempt=attempt.name,
        fingerprint=work.run.fingerprint,
        records=salvaged.records + sum(part.records for part in parts),
        errors=tally.errors,
        salvaged=salvaged.records + tally.copied,
        parts=[*salvaged.parts, *parts],
        host=os.uname().nodename,
        created=now(),
    )
    work.directory.require_run(work.run.run_id)
    try:
        work.directory.publish(receipt, generation=attempt.generation)
    except FileTaken:
        log.warning(
            "shard %d: another attempt was first; this one's results are not used", attempt.rank
        )
    else:
        log.info("shard %d: done, %d items", attempt.rank, receipt.records)
