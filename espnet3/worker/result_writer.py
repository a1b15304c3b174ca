"""Writing one attempt's results: in order, hashed on the way, durable at every checkpoint."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import Self

from espnet3.checksums import Checksum
from espnet3.errors import EspnetError
from espnet3.specs import layout
from espnet3.specs.models import ResultPart
from espnet3.storage.base import AppendFile, Store
from espnet3.storage.retry import RetryPolicy, is_shortage

WRITE_EVERY = 0.01  # seconds: results of slow items reach the operating system one by one
BUFFER = 1 << 18  # bytes: results of fast items reach it in blocks


class ResultWriter:
    """Takes result lines and keeps them.

    A line survives the death of the process once it was handed to the operating system: at once
    where the last write is more than `WRITE_EVERY` seconds ago, else with one of the next lines,
    with `BUFFER` bytes, or at the next checkpoint. It survives the death of the host after the next
    checkpoint. A thread makes checkpoints also while an item takes long. On a store that cannot
    append each checkpoint becomes a file of its own.

    Args:
        store: the run directory.
        rank: the shard.
        attempt: the attempt's name.
        first: position in the shard of the first record that will be added.
        checkpoint_every: seconds between two checkpoints.
        one_by_one: how many of the first lines are handed to the operating system at once, so that
            it is known at which item a process died.
        before_file: called before each file is made; raises where there must be none.

    Raises:
        StoreError: from any method, where the storage failed; also what the thread met.

    Attributes:
        waited: seconds that `add` has waited for the storage.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        attempt: str,
        first: int,
        checkpoint_every: float,
        *,
        before_file: Callable[[], None] = lambda: None,
        one_by_one: int = 0,
    ) -> None:
        self._store, self._rank, self._attempt = store, rank, attempt
        self._before_file = before_file
        self._interval = min(checkpoint_every, threading.TIMEOUT_MAX)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._buffer = bytearray()  # a list of lines would scatter the heap
        self._written_at = self.waited = 0.0
        self._one_by_one = one_by_one
        self._file: AppendFile | None = None
        self._parts: list[ResultPart] = []
        self._begin_part(first)
        self._thread = threading.Thread(target=self._keep_checkpoints, daemon=True)

    def _begin_part(self, first: int) -> None:
        self._first, self._records, self._bytes = first, 0, 0
        self._checksum = Checksum()
        self._dirty = False

    def __enter__(self) -> Self:
        try:
            RetryPolicy().call(self._thread.start, is_shortage)
        except RuntimeError as error:
            raise EspnetError(
                f"no thread can be started for the checkpoints ({error}); this host or its limit "
                "of processes (ulimit -u) has room for none"
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Make everything durable, unless `finish` did."""
        self._stop_thread()
        if self._file is not None or self._buffer:
            try:
                self.checkpoint()
            finally:
                self._close_file()

    @property
    def added(self) -> int:
        """How many records were added in all."""
        with self._lock:
            waiting = self._buffer.count(b"\n")
            return sum(part.records for part in self._parts) + self._records + waiting

    def add(self, line: bytes) -> None:
        """Take one result line, newline included."""
        # A few operations only, and no lock: this is called for every item, however fast.
        if self._error is not None:
            raise self._error
        self._buffer += line
        now = monotonic()
        if now - self._written_at > WRITE_EVERY or len(self._buffer) > BUFFER:
            if self._one_by_one > 0:  # `_written_at` stays: so the next one comes here, too
                self._one_by_one -= 1
            else:
                self._written_at = now
            if self._store.can_append:
                with self._lock, self._noting_errors():
                    self._write()
                self.waited += monotonic() - now

    def checkpoint(self) -> None:
        """Make every record that was added durable."""
        with self._lock, self._noting_errors():
            if self._store.can_append:
                self._write()
                if self._dirty and self._file is not None:
                    self._file.sync()
                self._dirty = False
            elif self._buffer:
                self._before_file()
                data = self._take_buffer()
                path = layout.result(self._rank, self._attempt, self._first)
                self._store.create(path, data)
                self._end_part(path)

    def finish(self) -> list[ResultPart]:
        """Make everything durable and close.

        Returns:
            What was written, for the receipt.
        """
        self._stop_thread()
        self.checkpoint()
        if self._file is not None:
            self._close_file()
            self._end_part(layout.result(self._rank, self._attempt, self._first))
        return self._parts

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        """Nothing more is written once something failed: it could not be undone."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except Exception as error:
            self._error = error
            raise

    def _write(self) -> None:
        if not self._buffer:
            return
        if self._file is None:
            self._before_file()
            path = layout.result(self._rank, self._attempt, self._first)
            self._file = self._store.append(path)
        self._file.write(self._take_buffer())
        self._dirty = True

    def _take_buffer(self) -> bytes:
        # Only the worker's own thread adds, at the end, and each step is atomic beside that.
        data = bytes(self._buffer)
        del self._buffer[: len(data)]
        self._records += data.count(b"\n")  # JSON has none within a line
        self._bytes += len(data)
        self._checksum.update(data)
        return data

    def _end_part(self, path: str) -> None:
        self._parts.append(
            ResultPart(
                file=path.rpartition("/")[2],
                first=self._first,
                records=self._records,
                bytes=self._bytes,
                checksum=str(self._checksum),
            )
        )
        self._begin_part(self._first + self._records)

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _keep_checkpoints(self) -> None:
        while not self._closing.wait(self._interval):
            try:
                self.checkpoint()
            except Exception:  # noqa: BLE001 (kept, and raised again in the worker's own thread)
                return

    def _stop_thread(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
