"""However lines are made columns, they are the same: as plain lines, as JSON, as objects."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.collect.columns import Columns, _parsed, at_once, common, type_of
from espnet3.collect.flat_lines import flat_columns
from espnet3.run_dir.result_lines import encode_json
from tests.support.strategies import JSON, SCALARS
from tests.unit.collect.test_forms import check_table

NAMES = st.sampled_from(["a", "b", "c", "item", "result", "error", "result.x", "é", "a b", ""])
PLAIN = st.sampled_from([0, 1, -1, 2**63, 2**53 + 1, 0.5, 1e300, True, False, None, "", "a,b", "1"])
RESULTS = st.lists(
    st.dictionaries(NAMES, PLAIN | SCALARS, max_size=3)
    | st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.sampled_from(["x", "y,\u2028"])})
    | JSON,
    max_size=8,
)


def made(results: list[Any], step: int) -> Any:
    """A table of results, a few at once, as a file is written: begun anew where they do not fit."""
    lines = [encode_json(item, result) for item, result in enumerate(results)]
    pieces = [b"".join(lines[at : at + step]) for at in range(0, len(lines), step)]
    columns = Columns()
    for _ in range(100):
        schema, tables = columns.schema, []
        for piece in pieces:
            found = at_once(piece, columns.types)
            tables += columns.tables(piece, "here") or [] if found is None else [found]
        if columns.schema == schema:
            return pa.concat_tables([schema.empty_table(), *tables])
    raise AssertionError("it never fits")


@given(RESULTS, st.integers(1, 4))
def test_a_table_holds_what_its_lines_hold(results: list[Any], step: int) -> None:
    table = made(results, step)
    table.validate(full=True)
    check_table(table, results)


@given(st.lists(st.fixed_dictionaries({"a": PLAIN, "b": PLAIN}), min_size=1, max_size=5), RESULTS)
def test_lines_that_are_parsed_are_those_that_were_written(
    results: list[Any], others: list[Any]
) -> None:
    """With the types of some lines, others fit as they are, or do not fit."""
    lines = b"".join(encode_json(item, result) for item, result in enumerate(others))
    types = {"item": pa.int64(), "a": type_of([r["a"] for r in results]) or pa.string()}
    types["b"] = type_of([r["b"] for r in results]) or pa.string()
    if not lines or pa.float64() in types.values():  # those are looked at afterwards
        return
    for columns in (flat_columns(lines, types), _parsed(lines, types)):
        if columns is not None:
            missing = {name: pa.nulls(len(others), types[name]) for name in types}
            table = pa.table({**missing, **columns}, schema=pa.schema(list(types.items())))
            wanted = [{name: r.get(name) for name in ("a", "b")} for r in map(_dict, others)]
            found = [{name: row[name] for name in ("a", "b")} for row in table.to_pylist()]
            assert json.dumps(found) == json.dumps(wanted)


def _dict(value: Any) -> dict[str, Any]:
    assert value is None or isinstance(value, dict)
    return value or {}


@pytest.mark.parametrize(
    ("line", "fits"),
    [
        (b'{"item":1,"result":{"a":2,"b":"x"}}\n', True),
        (b'{"item":1,"result":{"a":2,"b":",{}[]:"}}\n', True),
        (b'{"item":1,"result":{"b":"x","a":2}}\n', False),
        (b'{"item":1,"result":{"a":"2","b":"x"}}\n', False),
        (b'{"item":1,"result":{"a":2,"b":3}}\n', False),
        (b'{"item":1,"result":{"a":2,"b":null}}\n', False),
        (b'{"item":1,"result":{"a":2.0,"b":"x"}}\n', False),
        (b'{"item":1,"result":{"a":true,"b":"x"}}\n', False),
        (b'{"item":1,"result":{"a":[2],"b":"x"}}\n', False),
        (b'{"item":[1],"result":{"a":2,"b":"x"}}\n', False),
        (b'{"item":1,"result":[{"a":2,"b":"x"}]}\n', False),
        (b'{"item":1,"result":{"a":2,"b":["x"]}}\n', False),
        (b'{"item":1,"result":{"a":2,"c":"x"}}\n', False),
        (b'{"item":1,"result":{"a":2,"b":"x","c":1}}\n', False),
        (b'{"item":1,"result":{"a":{"a":2},"b":"x"}}\n', False),
        (b'{"item":1,"error":{"a":2,"b":"x"}}\n', False),
        (b'{"item":1,"result":{"a":2,"b":"\\u0041"}}\n', False),
        (b'{"item":1,"result":{"a":18446744073709551615,"b":"x"}}\n', False),
    ],
)
def test_only_lines_of_one_shape_are_taken_as_plain(line: bytes, fits: bool) -> None:
    first = b'{"item":0,"result":{"a":1,"b":"y"}}\n'
    types = {"item": pa.int64(), "a": pa.int64(), "b": pa.string()}
    for lines in (first + line, first * 3 + line + first, line + first):
        assert (flat_columns(lines, types) is not None) is fits
    assert (flat_columns(line, types) is not None) is (
        fits or line.startswith(b'{"item":1,"result":{"b"')
    )


def test_the_fast_ways_are_taken() -> None:
    """Otherwise nothing would notice but a clock."""
    types = {"item": pa.int64(), "a": pa.float64(), "b": pa.string(), "c": pa.bool_()}
    lines = encode_json(1, {"a": 0.5, "b": "x", "c": True}) * 2
    assert flat_columns(lines, types) is not None
    assert flat_columns(encode_json("u", 2) * 2, {"item": pa.string(), "result": pa.int64()})
    nested = {"item": pa.int64(), "a": pa.list_(pa.struct([("b", pa.string())]))}
    assert _parsed(encode_json(1, {"a": [{"b": 'x"'}, {}]}), nested) is not None


def test_a_type_with_too_many_fields_is_that_of_a_map() -> None:
    few = pa.struct([(f"a{i}", pa.int64()) for i in range(150)])
    others = pa.struct([(f"b{i}", pa.int64()) for i in range(150)])
    assert common(few, few) == few
    assert common(few, others) is None
    assert common(pa.null(), pa.struct([*few, *others])) is None
