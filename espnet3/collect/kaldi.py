"""Results as Kaldi and ESPnet read them: for each field a sorted file of keys and values."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from espnet3.collect.csv_file import cell
from espnet3.collect.merge import Collected, collected
from espnet3.collect.output import open_output
from espnet3.collect.result_parts import Vouched
from espnet3.collect.rows import ERROR, ITEM, Row, feed, rows_of
from espnet3.collect.vouching import Errors, vouch
from espnet3.errors import StoreError, UsageError
from espnet3.run_dir.output_names import pickled_results, require_outside
from espnet3.run_dir.trust import Trust
from espnet3.run_dir.verification import PATIENCE, stopping
from espnet3.storage.opening import absolute_root
from espnet3.text import one_line

_HELD = 64 << 20  # bytes that lines may take which are sorted in memory
_OBJECT = 50  # bytes that a line takes besides
_WRITTEN = 1 << 20  # bytes that are written at once
_MOST_PARTS = 200  # files that are merged at last, and open until then
_MOST_FIELDS = 200  # a file for each, and all are open until the last one is whole
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BLANK = re.compile(r"[\x00-\x20\x7f]|\s")
_KEYS = None  # the field of which there is no file


async def to_kaldi(
    run_dir: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    key: str,
    *,
    partial: bool = False,
    errors: Errors = "raise",
    patience: float = PATIENCE,
    trust: Trust | None = None,
) -> Collected:
    r"""Write a file for each field of the results, with lines of key, space and value.

    The lines are sorted as `LC_ALL=C sort` does. Texts stand as they are, other values as their
    JSON; null has no line, and neither have items that failed. Other arguments and errors are those
    of `collect`.

    Args:
        run_dir: the run directory.
        folder: a path or fsspec URL; the files in it are named as the fields, and `result` where
            results are no dicts. Each exists only once all are complete.
        key: the field with the keys, or `item` for the items themselves.
        partial: as for `collect`.
        errors: as for `collect`.
        patience: as for `collect`.
        trust: as for `collect`.

    Raises:
        UsageError: a result has no key, a key is there twice, or a value has a line break or
            another control character in it; names the item.

    Example:
        >>> await to_kaldi("/shared/decode", "exp/decode", "id")  # doctest: +SKIP
        >>> open("exp/decode/text").readline()                    # doctest: +SKIP
        'utt1 hello world\n'
    """
    root, folder = absolute_root(run_dir), os.fspath(folder)
    if not folder:
        raise UsageError("folder: is empty; name a folder")
    require_outside(root, f"{folder.rstrip('/')}/text")
    with stopping() as stop:
        vouched = await vouch(run_dir, partial, errors, patience, trust, stop)
        await asyncio.to_thread(_write, vouched, root, folder.rstrip("/"), key)
    return collected(vouched, folder)


def _write(vouched: Vouched, root: str, folder: str, key: str) -> None:
    if vouched.run.results == "pickle":
        raise pickled_results(folder)
    with contextlib.ExitStack() as opened:
        lines = _SortedLines(opened)

        def take(data: bytes, where: str) -> None:
            for row in rows_of(data, where):
                if ERROR not in row:
                    lines.add(row, key)

        feed(vouched, take)
        lines.require_unique_keys()
        for field in sorted(lines.fields):
            output = f"{folder}/{field}"
            require_outside(root, output)
            target = opened.enter_context(open_output(output))
            for block in _blocks(lines.of(field)):
                vouched.require_wanted()
                target.write(block)


class _SortedLines:
    """Lines of each field, sorted in constant memory: in parts on disk, which are merged."""

    def __init__(self, opened: contextlib.ExitStack) -> None:
        self._opened = opened
        self._held: defaultdict[str | None, list[bytes]] = defaultdict(list)
        self._size = 0
        self._parts: defaultdict[str | None, list[BinaryIO]] = defaultdict(list)

    @property
    def fields(self) -> set[str]:
        """All fields that have lines."""
        return {field for field in (*self._held, *self._parts) if field is not None}

    def add(self, row: Row, key: str) -> None:
        """Add the lines of a row.

        Raises:
            UsageError: a file cannot hold it.
        """
        item = row[ITEM]
        name = _key(row, key)
        self._add(_KEYS, f"{name}\n")
        for field, value in row.items():
            if field in (key, ITEM) or value is None:
                continue
            text = cell(value)
            if found := _CONTROL.search(text):
                raise UsageError(
                    f"{_of(item)}: field {one_line(field, 60)!r} has {found[0]!r} in it, which "
                    "no line of a Kaldi file holds; leave such characters out, or collect to a file"
                )
            if field not in self._held and field not in self._parts:
                _require_file_name(item, field)
            self._add(field, f"{name} {text}\n")
        if len(self._held) > _MOST_FIELDS + 1:
            raise UsageError(
                f"{_of(item)}: is the first with more than {_MOST_FIELDS} fields in all, each of "
                "which would be a file; collect to a file"
            )

    def require_unique_keys(self) -> None:
        """Refuse keys that are there twice.

        Raises:
            UsageError: one is.
        """
        before = None
        for line in self.of(_KEYS):
            if line == before:
                name = one_line(line.decode(), 120)
                raise UsageError(f"{name}: is the key of more than one item; name another --key")
            before = line

    def of(self, field: str | None) -> Iterator[bytes]:
        """The lines of a field, in order."""
        self._held[field].sort()
        return heapq.merge(*self._parts[field], self._held[field])

    def _add(self, field: str | None, line: str) -> None:
        data = line.encode()
        self._held[field].append(data)
        self._size += len(data) + _OBJECT
        if self._size >= _HELD:
            self._spill()

    def _spill(self) -> None:
        try:
            for field, lines in self._held.items():
                if lines:
                    self._parts[field].append(self._part(sorted(lines)))
                    lines.clear()
            if sum(map(len, self._parts.values())) > _MOST_PARTS:
                for parts in self._parts.values():
                    merged = self._part(heapq.merge(*parts))
                    for part in parts:
                        part.close()
                    parts[:] = [merged]
        except OSError as error:
            problem = f"{error.strerror or error}, while sorting; set TMPDIR to another folder"
            raise StoreError(error.filename or "TMPDIR", problem) from None
        self._size = 0

    def _part(self, lines: Iterable[bytes]) -> BinaryIO:
        """A file of sorted lines, which is gone once it is closed."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 (the stack closes it)
        part: BinaryIO = self._opened.enter_context(file)
        part.writelines(lines)
        part.seek(0)
        return part


def _key(row: Row, key: str) -> str:
    value = row.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value and not _BLANK.search(value):
        return value
    if key not in row:
        others = ", ".join(map(repr, row))
        problem = f"has no field {key!r} for the key, but {others}; name another --key"
    else:
        shown = one_line(repr(value), 120)
        problem = f"field {key!r} is {shown}, and a key is a text without blanks, or a number"
    raise UsageError(f"{_of(row[ITEM])}: {one_line(problem)}")


def _require_file_name(item: Any, field: str) -> None:
    long = len(field.encode()) > 200
    if long or not field or field[0] in ".~" or "/" in field or _CONTROL.search(field):
        raise UsageError(
            f"{_of(item)}: the field {one_line(field, 60)!r} cannot be the name of a file; "
            "rename it, or collect to a file"
        )


def _of(item: Any) -> str:
    return f"item {one_line(repr(item), 120)}"


def _blocks(lines: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _WRITTEN:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)
