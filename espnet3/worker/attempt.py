"""One execution of a shard: its name, and the records that it leaves."""

from __future__ import annotations

import copy
import logging
import os
import re
import time
import traceback
from collections.abc import Mapping
from typing import Any

import orjson

from espnet3._structs import Struct
from espnet3.errors import (
    EspnetError,
    FileMissing,
    ForwardFailed,
    TooManyErrors,
    UnserializableResult,
    UsageError,
    WriterFailed,
)
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import AttemptRecord, ErrorRecord, RunSpec, now
from espnet3.text import counted, cut, one_line
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.usage import Meter

log = logging.getLogger("espnet3.worker")
LARGE_ITEM = 1 << 16  # bytes
_WITH_ITEM = ForwardFailed | UnserializableResult | TooManyErrors | WriterFailed
WORKER_FAILED = "the worker failed: "  # begins a cause that is no exception of the user's code
# Functions written in C, which might forget to raise, have other words before their names.
_LOST = r"(?s)<function .* returned NULL without setting an exception$"
# Of addresses alone, for where a limit leaves none: nothing writes to it.
_reserve = [bytes(1 << 22)]
BEGAN = time.monotonic()  # of this process, nearly


class SchedulerTask(Struct):
    """Where an attempt runs: its task and job, for the attempt records."""

    task: int | None
    job_id: str | None


class Attempt:
    """One execution of one shard, and the records that it leaves.

    The generation of its receipt is settled before it begins: where that receipt is withdrawn
    meanwhile, its name stays taken, and what this attempt believed is not vouched for.

    Attributes:
        spent: what it takes.
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
        meter: Meter,
    ) -> None:
        self.directory, self.run, self.rank, self.place = directory, run, rank, place
        self.generation, self.spare = generation, spare
        self.name = layout.new_attempt(submission_number)
        self.spent = meter.begin()
        self._is_own = True

    def in_place_of(self, name: str) -> Attempt:
        """Another attempt of this shard, which cannot say itself how it ended."""
        other = copy.copy(self)
        other.name, other._is_own = name, False
        return other

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
        is_own_end = self._is_own and event != "started"
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
            elapsed=round(time.monotonic() - BEGAN, 3),
            usage=self.spent.usage() if is_own_end else None,
            **details,
        )
        self.directory.publish_first(record, durable=durable)


def record_failure(attempt: Attempt, error: EspnetError, done: int) -> None:
    """Say in the log and in an attempt's record why it failed, and after how many items."""
    log.error("shard %d: failed after %s: %s", attempt.rank, counted(done, "item"), error)
    log_traceback(error)
    attempt.record("failed", **_why(error), item=_item_of(error), items_done=done)


def log_failure(raised: Exception) -> dict[str, Any]:
    """Say in the log why no shard can be begun; and give what the attempts' records say of it."""
    error = as_ours(raised)
    log.error("%s", error)
    log_traceback(error)
    return _why(error)


def _why(error: EspnetError) -> dict[str, Any]:
    return {"cause": one_line(str(error)), "error": error_record(error.__cause__ or error)}


def error_record(error: BaseException) -> ErrorRecord:
    """An exception as it is persisted: of text that is longer than 64 KiB the middle is cut."""
    text = "".join(traceback.format_exception(error))
    return ErrorRecord(
        type=one_line(type(error).__name__, 200),
        message=cut(_message(error)),
        traceback=cut(_printable(text)),
    )


def let_go(error: BaseException) -> BaseException:
    """Give up what the frames of a MemoryError hold, and a reserve: to record it takes memory.

    Returns:
        What the user's code raised; a MemoryError where Python has lost that.
    """
    # https://github.com/python/cpython/issues/131173: where there is no memory for a frame object.
    if isinstance(error, SystemError) and re.match(_LOST, str(error)):
        lost, error = error, MemoryError("which Python has lost")
        error.__cause__, error.__traceback__ = lost, lost.__traceback__
    chain, seen = [error], _behind(error)
    while seen is not None and not any(seen is each for each in chain):
        chain.append(seen)
        seen = _behind(seen)
    if any(isinstance(each, MemoryError) for each in chain):
        _reserve.clear()
        for each in chain:
            traceback.clear_frames(each.__traceback__)
    return error


def _behind(error: BaseException) -> BaseException | None:
    """What an exception was raised from, or in the course of."""
    return error.__context__ if error.__cause__ is None else error.__cause__


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
        cause, error = error, EspnetError(WORKER_FAILED + describe(error))
        error.__cause__ = cause
    return error


def log_traceback(error: EspnetError) -> None:
    """Write the traceback of the user's code to the job's log, where one looks for it."""
    if error.__cause__ is not None:
        log.error("%s", error_record(error.__cause__).traceback)
