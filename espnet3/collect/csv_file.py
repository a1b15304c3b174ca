"""Results as a CSV file."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator
from typing import Any

import orjson

from espnet3.collect.output import Target, open_output
from espnet3.collect.result_parts import Vouched
from espnet3.collect.rows import ITEM, filled, in_order, require_few, rows_of


def write_csv(vouched: Vouched, output: str) -> None:
    """Write all results to a CSV file with a header, in UTF-8.

    Texts stand as they are, null as nothing, all other values as their JSON.

    Args:
        vouched: the results; none of them is pickled.
        output: a path or an fsspec URL.
    """
    columns = {ITEM: None}

    @contextlib.contextmanager
    def begin() -> Iterator[_CsvSink]:
        with open_output(output) as target:
            yield _CsvSink(target, columns)

    filled(vouched, begin)


class _CsvSink:
    """Writes rows; `columns` grows, in order of first appearance."""

    def __init__(self, target: Target, columns: dict[str, None]) -> None:
        self.outgrown = False
        self._target, self._columns = target, columns
        self._names: list[str] = []

    def take(self, lines: bytes, where: str) -> None:
        rows = rows_of(lines, where)
        before = len(self._columns)
        for row in rows:
            self._columns.update(dict.fromkeys(row))
        require_few(self._columns)
        self.outgrown |= bool(self._names) and len(self._columns) > before
        if self.outgrown:
            return
        text = _Lines()
        writer = csv.writer(text)
        self._begin(text)
        writer.writerows([cell(row.get(name)) for name in self._names] for row in rows)
        self._target.write("".join(text.lines).encode())

    def close(self) -> None:
        text = _Lines()
        self._begin(text)
        self._target.write("".join(text.lines).encode())

    def _begin(self, text: _Lines) -> None:
        if not self._names:
            self._names = in_order(self._columns)
            csv.writer(text).writerow(self._names)


class _Lines:
    r"""Lines as csv writes them, but ended by \n alone.

    Told that lines end so, csv leaves a \r within a value without quotes, which readers take for
    the end of a line.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        self.lines.append(f"{line[:-2]}\n")


def cell(value: Any) -> str:
    """A value as a text: a text itself, nothing for null, or else its JSON.

    Example:
        >>> cell("a"), cell(None), cell(1.5), cell({"a": [True, None]})
        ('a', '', '1.5', '{"a":[true,null]}')
    """
    if isinstance(value, str):
        return value
    return "" if value is None else orjson.dumps(value).decode()
