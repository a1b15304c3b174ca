"""Results as a table of Arrow: in a Parquet or Arrow file, or in memory."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from espnet3.collect.arrow_file import arrow_file
from espnet3.collect.columns import Columns, at_once, first_of
from espnet3.collect.output import open_output
from espnet3.collect.result_parts import Vouched
from espnet3.collect.rows import filled
from espnet3.storage.concurrency import submit_in_context

_GROUP = 32 << 20  # bytes in memory that are written at once: a row group of Parquet
_MOST_ROWS = 1 << 20
_PARSERS = min(4, os.cpu_count() or 1)


class _Writer(Protocol):
    def write_table(self, table: Any, /) -> object: ...

    def close(self) -> object: ...


def write_table(vouched: Vouched, output: str, form: str) -> None:
    """Write all results to a Parquet or an Arrow file.

    Args:
        vouched: the results; none of them is pickled.
        output: a path or an fsspec URL.
        form: `.parquet` or `.arrow`.
    """
    columns = Columns()

    @contextlib.contextmanager
    def begin() -> Iterator[_TableSink]:
        with open_output(output) as target, arrow_file(target) as file, _parsers() as pool:

            def writer(schema: pa.Schema) -> _Writer:
                if form == ".arrow":
                    made: _Writer = pa.ipc.new_file(file, schema)
                else:
                    made = pq.ParquetWriter(file, schema, use_dictionary=_repeating(schema))
                return made

            yield _TableSink(columns, writer, pool)

    filled(vouched, begin)


def table_of(vouched: Vouched) -> Any:
    """All results as one table in memory.

    Args:
        vouched: the results; none of them is pickled.
    """
    columns = Columns()
    kept = _Kept()

    @contextlib.contextmanager
    def begin() -> Iterator[_TableSink]:
        kept.tables.clear()
        with _parsers() as pool:
            yield _TableSink(columns, lambda schema: kept, pool)

    filled(vouched, begin)
    return pa.concat_tables([columns.schema.empty_table(), *kept.tables])


class _Kept:
    """A writer that keeps what it is given."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    def write_table(self, table: Any) -> None:
        self.tables.append(table)

    def close(self) -> None:
        """Nothing is left to write."""


@contextlib.contextmanager
def _parsers() -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(_PARSERS, thread_name_prefix="espnet3-parse")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class _TableSink:
    """Hands lines to a writer as tables of columns, which grow; threads parse some ahead."""

    def __init__(
        self, columns: Columns, begin: Callable[[pa.Schema], _Writer], pool: ThreadPoolExecutor
    ) -> None:
        self.outgrown = False
        self._columns, self._begin, self._pool = columns, begin, pool
        self._writer: _Writer | None = None
        self._ahead: deque[tuple[bytes, str, Future[Any]]] = deque()
        self._held: list[Any] = []
        self._rows = self._bytes = 0

    def take(self, lines: bytes, where: str) -> None:
        if self._writer is None:
            first, lines = first_of(lines)
            self._columns.tables(first, where)
            self._writer = self._begin(self._columns.schema)
            self._parse(first, where)
        if lines:
            self._parse(lines, where)
        while len(self._ahead) > _PARSERS:
            self._settle()

    def close(self) -> None:
        while self._ahead:
            self._settle()
        if self.outgrown:
            return
        if self._writer is None:  # there is no result
            self._writer = self._begin(self._columns.schema)
        self._flush()
        self._writer.close()

    def _parse(self, lines: bytes, where: str) -> None:
        future = submit_in_context(self._pool, at_once, lines, self._columns.types)
        self._ahead.append((lines, where, future))

    def _settle(self) -> None:
        lines, where, future = self._ahead.popleft()
        found = future.result()
        tables = self._columns.tables(lines, where) if found is None else [found]
        self.outgrown |= tables is None
        if tables is None or self.outgrown:
            return
        self._held += tables
        self._bytes += sum(table.nbytes for table in tables)
        self._rows += sum(table.num_rows for table in tables)
        if self._bytes >= _GROUP or self._rows >= _MOST_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._held and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._held))
        self._held.clear()
        self._rows = self._bytes = 0


def _repeating(schema: pa.Schema) -> list[str]:
    """Columns of which Parquet tries whether values repeat; for numbers that only takes time."""
    return [field.name for field in schema if pa.types.is_string(field.type)]
