r"""Result lines of plain values, all of one shape, as columns: several times faster than as JSON.

Where no backslash is, each `"` begins or ends a text. So lines of one shape, cut at each `"`, have
the same cells, as in `{"item":7,"result":{"text":"yes"}}`:

    {  item  :7,  result  :{  text  :  yes  }}

They are read as CSV whose delimiter is `"`. All cells but the values' have to be the same in each
line, and what surrounds a number too; so what is not of this shape is not taken for it.
"""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from espnet3.collect.rows import ITEM, RESULT, column_of

CHUNK = 1 << 20  # bytes that are parsed at once; a longer line is an error
_VALUE = "\0"  # stands for a value in the shape of a line; JSON has it only as an escape
_BOOLS = pa.array(["true", "false"])
_BARE = (pa.int64(), pa.uint64(), pa.float64(), pa.bool_())


def flat_columns(lines: bytes, types: dict[str, Any]) -> dict[str, Any] | None:
    """The columns of lines that are all of one shape; None where they are not.

    Args:
        lines: whole result lines.
        types: the type of each column; what lines hold in other types does not fit.
    """
    if b"\\" in lines:
        return None
    shape = _shape(lines[: lines.find(b"\n")], types)
    if shape is None:
        return None
    text, names = shape
    cells = text.split('"')
    kinds = {str(i): pa.string() if cell == _VALUE else pa.binary() for i, cell in enumerate(cells)}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(lines),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=CHUNK, column_names=list(kinds)),
            pyarrow.csv.ParseOptions(delimiter='"', quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=kinds, null_values=[]),
        )
        return _columns(table, cells, names, types)
    except pa.ArrowInvalid:
        return None


def _shape(line: bytes, types: dict[str, Any]) -> tuple[str, list[str]] | None:
    """A line as text with its values replaced, and the columns that these are of, in order."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or list(record) != [ITEM, RESULT]:
        return None
    result = record[RESULT]
    fields = {column_of(name): name for name in result} if isinstance(result, dict) else {}
    names = [ITEM, *(fields or [RESULT])]
    if not all(
        name in types and (types[name] in _BARE or types[name] == pa.string()) for name in names
    ):
        return None
    slots = {name: _VALUE if types[name] in _BARE else f'"{_VALUE}"' for name in names}
    inner = ",".join(f"{orjson.dumps(key).decode()}:{slots[name]}" for name, key in fields.items())
    value = f"{{{inner}}}" if fields else slots[RESULT]
    return f'{{"{ITEM}":{slots[ITEM]},"{RESULT}":{value}}}', names


def _columns(
    table: Any, cells: list[str], names: list[str], types: dict[str, Any]
) -> dict[str, Any] | None:
    found: dict[str, Any] = {}
    for i, cell in enumerate(cells):
        values = table.column(i)
        before, is_value, after = cell.partition(_VALUE)
        if not is_value:
            if not _all(pc.equal(values, pa.scalar(cell.encode(), pa.binary()))):
                return None
            continue
        name = names[len(found)]
        if types[name] != pa.string():
            if not _all(pc.starts_with(values, before.encode())):
                return None
            if not _all(pc.ends_with(values, after.encode())):
                return None
            values = _as_text(pc.binary_slice(values, len(before), -len(after)))
            is_bool = pa.types.is_boolean(types[name])
            if is_bool and not _all(pc.is_in(values, _BOOLS)):  # or 1 would be true
                return None
            values = values.cast(types[name])
        found[name] = values
    return found


def _as_text(values: Any) -> Any:
    """Bytes as text, unseen: what is no number's is an error where it becomes one."""
    return pa.chunked_array([chunk.view(pa.string()) for chunk in values.chunks], pa.string())


def _all(values: Any) -> bool:
    return bool(pc.all(values).as_py())
