"""The types that the columns of a table have, learnt from results, and results in these types.

No value changes: what has no common type, such as numbers among texts, is a column of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from espnet3.collect.flat_lines import CHUNK, flat_columns
from espnet3.collect.rows import (
    ERROR,
    ITEM,
    RESULT,
    Row,
    field_of,
    in_order,
    require_few,
    rows_of,
)

_EXACT = 2**53  # up to which a double is every whole number
_CELLS = 4 << 20  # of a table that is made at once, or few values in many columns would be many
_MOST_LEAVES = 200  # of a nested type; one with more is that of a map, and JSON
_MOST_LEVELS = 20  # of a nested type; one with more is JSON
_SHORTEST = 20  # bytes of a line
_FIRST = 1 << 16  # bytes of lines from which types are learnt at first
_CONVERSION = (pa.ArrowInvalid, OverflowError)
_PLAIN = {bool: pa.bool_(), float: pa.float64(), str: pa.string()}


Types = dict[str, Any]  # name -> type of each column; None: JSON


class Columns:
    """The columns of a table, which grow; what was seen before stands first."""

    def __init__(self) -> None:
        self._types: Types = {ITEM: pa.null()}

    @property
    def types(self) -> Types:
        """The columns now, for `at_once`."""
        return {**self._types}

    @property
    def schema(self) -> pa.Schema:
        """The columns as they are written."""
        return _schema(self._types)

    def tables(self, lines: bytes, where: str) -> list[pa.Table] | None:
        """Lines as tables of these columns; None where the columns had to grow for them.

        Args:
            lines: whole result lines.
            where: what they are, for errors.

        Raises:
            InvalidFile: a line is not a result line.
            UsageError: they have more fields than a table may have.
        """
        before = self.schema
        rows = rows_of(lines, where)
        names = list(dict.fromkeys(name for row in rows for name in row))
        require_few({**self._types, **dict.fromkeys(names)})
        step = max(1, _CELLS // (len(names) + _leaves(self._types)))
        made = [self._learn(rows[at : at + step], names) for at in range(0, len(rows), step)]
        return [_table(each, self._types) for each in made] if self.schema == before else None

    def _learn(self, rows: Sequence[Row], names: Sequence[str]) -> dict[str, Any]:
        """The values of rows; the types are such that they hold them."""
        found = {}
        for name in names:
            values = [row.get(name) for row in rows]
            kind = common(self._types.get(name, pa.null()), type_of(values))
            try:
                found[name] = _array(values, kind)
            except _CONVERSION:  # a whole number that a double is not, or a negative one
                kind = None
                found[name] = _array(values, kind)
            self._types[name] = kind
        return found


def at_once(lines: bytes, types: Types) -> pa.Table | None:
    """Lines as a table, without a Python object for each value; None where that cannot be.

    Args:
        lines: whole result lines.
        types: those of the columns; where lines hold other values, that cannot be.
    """
    if any(map(_is_json, types.values())):
        return None
    leaves = _leaves(types)
    if len(lines) // _SHORTEST * leaves > _CELLS < lines.count(b"\n") * leaves:
        return None
    columns = flat_columns(lines, types)
    if columns is None:
        columns = _parsed(lines, types)
    if columns is None or not all(map(_is_exact, columns.values())):
        return None
    return _table(columns, types)


def _table(columns: dict[str, Any], types: Types) -> pa.Table:
    """Values as a table; null where a column has none."""
    n_rows, schema = len(columns[ITEM]), _schema(types)
    for field in schema:
        if field.name not in columns:
            columns[field.name] = pa.nulls(n_rows, field.type)
    return pa.table(columns, schema)


def _schema(types: Types) -> pa.Schema:
    return pa.schema([(name, _written(types[name])) for name in in_order(types)])


def _leaves(types: Types) -> int:
    return sum(1 if kind is None else _count(kind) for kind in types.values())


def _parsed(lines: bytes, types: Types) -> dict[str, Any] | None:
    """Lines of any shape, as pyarrow reads JSON; None where they do not fit the types."""
    fields = [name for name in types if name not in (ITEM, RESULT, ERROR)]
    if (RESULT in types and fields) or any(map(_lists_nulls, types.values())):
        return None
    result = types.get(RESULT, pa.struct([(field_of(name), types[name]) for name in fields]))
    schema = [(ITEM, types[ITEM]), (RESULT, result)]
    schema += [(ERROR, types[ERROR])] if ERROR in types else []
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(lines),
            pyarrow.json.ReadOptions(use_threads=False, block_size=CHUNK),
            pyarrow.json.ParseOptions(pa.schema(schema), unexpected_field_behavior="error"),
        )
    except pa.ArrowInvalid:
        return None
    columns = {name: table.column(name) for name, _ in schema}
    if RESULT not in types:
        columns.update(zip(fields, columns.pop(RESULT).flatten(), strict=True))
    return columns


def first_of(lines: bytes) -> tuple[bytes, bytes]:
    """So many of the lines that types can be learnt from, and the others."""
    end = lines.rfind(b"\n", 0, _FIRST) + 1 or lines.find(b"\n") + 1
    return lines[:end], lines[end:]


def type_of(values: Sequence[Any]) -> pa.DataType | None:
    """The type of JSON values; None where they have none in common.

    Example:
        >>> type_of([1, None]), type_of([1, 2.5]), type_of([2**63]), type_of([1, "a"])
        (DataType(int64), DataType(double), DataType(uint64), None)
    """
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {int}:
        return _whole([value for value in values if value is not None])
    if kinds == {int, float}:
        return pa.float64()
    if len(kinds) > 1:  # also of booleans and numbers, which Arrow would make numbers
        return None
    if kinds == {list}:
        inner = type_of([each for value in values if value is not None for each in value])
        return None if inner is None else pa.list_(inner)
    if kinds == {dict}:
        return _struct([value for value in values if value is not None])
    return _PLAIN[kinds.pop()] if kinds else pa.null()


def _whole(values: Sequence[int]) -> pa.DataType | None:
    least, most = min(values), max(values)
    if least >= -(2**63) and most < 2**63:
        return pa.int64()
    return pa.uint64() if least >= 0 else None


def _struct(values: Sequence[dict[str, Any]]) -> pa.DataType | None:
    names = dict.fromkeys(name for value in values for name in value)
    if len(names) > _MOST_LEAVES:
        return None
    fields = {name: type_of([value.get(name) for value in values]) for name in names}
    return None if None in fields.values() else pa.struct(list(fields.items()))


def common(known: pa.DataType | None, found: pa.DataType | None) -> pa.DataType | None:
    """The type that holds what two types hold; None where no type does.

    Example:
        >>> common(pa.null(), pa.int64()), common(pa.int64(), pa.string())
        (DataType(int64), None)
    """
    if known is None or found is None:
        return None
    kind = _common(known, found)
    return kind if kind is not None and _count(kind) <= _MOST_LEAVES else None


def _common(known: Any, found: Any) -> Any:
    if known == found or pa.types.is_null(found):
        return known
    if pa.types.is_null(known):
        return found
    if {known, found} in ({pa.int64(), pa.float64()}, {pa.int64(), pa.uint64()}):
        return ({known, found} - {pa.int64()}).pop()
    if pa.types.is_list(known) and pa.types.is_list(found):
        kind = _common(known.value_type, found.value_type)
        return kind if kind is None else pa.list_(kind)
    if pa.types.is_struct(known) and pa.types.is_struct(found):
        fields = {field.name: field.type for field in known}
        for field in found:
            kind = _common(fields.get(field.name, pa.null()), field.type)
            if kind is None:
                return None
            fields[field.name] = kind
        return pa.struct(list(fields.items()))
    return None


def _children(kind: Any) -> list[Any]:
    if pa.types.is_list(kind):
        return [kind.value_type]
    return [field.type for field in kind] if pa.types.is_struct(kind) else []


def _count(kind: Any) -> int:
    """How many columns of plain values a type is."""
    return sum(map(_count, _children(kind))) or 1


def _lists_nulls(kind: Any, listed: bool = False) -> bool:
    """Whether there are lists of nothing but null in it, which pyarrow (26) reads wrongly."""
    if pa.types.is_null(kind):
        return listed
    listed |= pa.types.is_list(kind)
    return any(_lists_nulls(child, listed) for child in _children(kind))


def _is_json(kind: Any, levels: int = 0) -> bool:
    """Whether values of a type are written as JSON.

    Parquet knows no struct without fields, and its readers only so many levels.
    """
    if kind is None or levels > _MOST_LEVELS:
        return True
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return any(_is_json(child, levels + 1) for child in _children(kind))


def _written(kind: Any) -> Any:
    return pa.string() if _is_json(kind) else kind


def _array(values: Sequence[Any], kind: Any) -> Any:
    if _is_json(kind):
        texts = [None if value is None else orjson.dumps(value).decode() for value in values]
        return pa.array(texts, pa.string())
    return pa.array(values, kind)


def _is_exact(values: Any) -> bool:
    """Whether no whole number was rounded on its way to a double."""
    kind = values.type
    if pa.types.is_floating(kind):
        return (pc.max(pc.abs(values)).as_py() or 0) < _EXACT
    if pa.types.is_list(kind):
        return _is_exact(pc.list_flatten(values))
    if pa.types.is_struct(kind):
        return all(map(_is_exact, values.flatten()))
    return True
