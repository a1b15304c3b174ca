"""Result lines: what goes in comes out, and what cannot is refused by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import pathlib
import pickle
import uuid
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import InvalidFile, UnserializableResult
from espnet3.run_dir.result_lines import (
    ResultRecord,
    decode_line,
    decode_results,
    encode_error,
    encode_json,
    encode_pickle,
)
from espnet3.specs.models import ErrorRecord
from tests.support.strategies import JSON, TEXT

WHERE = "run/results/x.jsonl"
NAN, INF = float("nan"), float("inf")

Point = collections.namedtuple("Point", "x y")  # both kinds are refused


@dataclasses.dataclass
class Hypothesis:
    text: str
    score: Any
    _private: Any = None


class Label(enum.Enum):
    YES = "yes"
    UNKNOWN = NAN


class Tensor:
    """As torch has them: with `tolist`, and no NumPy."""

    def tolist(self) -> list[int]:
        return [1, 2]


class TwoLines:
    def __repr__(self) -> str:
        return "two\nlines"

    def __hash__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


class Unpicklable:
    def __reduce__(self) -> str:
        raise RuntimeError("no\npickle")


def refuse() -> None:
    raise ModuleNotFoundError("No module named 'elsewhere'")


class Elsewhere:
    """Pickles here, and needs a module there that is missing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return refuse, ()


def result_of(line: bytes) -> Any:
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    return decode_line(line, WHERE).result


class TestJson:
    @given(JSON, JSON)
    def test_any_json_value_comes_back(self, item: Any, result: Any) -> None:
        line = encode_json(item, result)
        assert line.count(b"\n") == 1
        for form in (line, line.rstrip(b"\n")):
            assert decode_line(form, WHERE) == ResultRecord(item, result)
        assert repr(decode_line(line, WHERE).result) == repr(result)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats_come_back_to_the_bit(self, value: float) -> None:
        assert result_of(encode_json(0, value)).hex() == value.hex()

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u8", "?"])
    def test_numpy_arrays(self, dtype: str) -> None:
        array = np.arange(12).reshape(3, 4).astype(dtype)
        for form in (array, array.T, array[::2, ::-1], array[:, :0], np.array(array[1, 1])):
            back = np.array(result_of(encode_json(0, {"a": [form]}))["a"][0], dtype)
            assert np.array_equal(back, form)
        scalar = result_of(encode_json(0, array[1, 1]))
        assert scalar == array[1, 1].item()
        assert type(scalar) is type(array[1, 1].item())

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
    def test_numpy_floats_come_back_to_the_bit(self, dtype: str) -> None:
        array = np.array([0.1, 1 / 3, -65504, 6e-8], dtype)
        for form in (array, array[::2]):
            assert np.array(result_of(encode_json(0, form)), dtype).tobytes() == form.tobytes()

    @pytest.mark.parametrize(
        ("result", "stored"),
        [
            (np.array(["a", 1, None, [2]], dtype=object), ["a", 1, None, [2]]),
            (np.array("text"), "text"),
            (np.str_("text"), "text"),
            (np.array(["a", "b"]), ["a", "b"]),
            ((1, (2, [3])), [1, [2, [3]]]),
            (pathlib.Path("/a/b"), "/a/b"),
            (pathlib.PurePosixPath("a"), "a"),
            (datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.UTC), "2026-01-02T03:00:00+00:00"),
            (datetime.date(2026, 1, 2), "2026-01-02"),
            (datetime.time(1, 2), "01:02:00"),
            (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
            (Label.YES, "yes"),
            (collections.Counter("aab"), {"a": 2, "b": 1}),
            (
                Hypothesis("hi", np.float32(0.5), {"n": 1}),
                {"text": "hi", "score": 0.5, "_private": {"n": 1}},
            ),
            ([Hypothesis("a", None), None], [{"text": "a", "score": None, "_private": None}, None]),
            ({"text": "the word null"}, {"text": "the word null"}),
            (None, None),
        ],
    )
    def test_what_json_has_for_it(self, result: Any, stored: Any) -> None:
        assert result_of(encode_json(0, result)) == stored

    @pytest.mark.parametrize(
        ("result", "type_name", "place"),
        [
            (NAN, "float", "nan is not JSON"),
            ({"a": [1, {"b": INF}]}, "float", "inf at a[1].b is"),
            ([-INF], "float", "-inf at [0]"),
            (np.float64(NAN), "numpy.float64", "nan"),
            (np.array([1, NAN], "f2"), "float", "nan at [1]"),
            ({"s": np.array([[1.0, INF]], "f4").T}, "float", "inf at s[1][0]"),
            (np.array([None, NAN], dtype=object), "float", "nan at [1]"),
            (np.array(NAN), "float", "nan"),
            (Hypothesis("a", NAN), "float", "nan at score"),
            (Hypothesis("a", 1, {"x": NAN}), "float", "nan at _private.x"),
            ([Label.UNKNOWN], "float", "nan at [0]"),
            ({"a": {1: 2}}, "int", "the key 1 at a is not a plain string"),
            ({None: 2}, "NoneType", "the key None"),
            ({np.str_("a"): 2}, "str_", "the key"),
            ({TwoLines(): 2}, "TwoLines", "the key two lines"),
            ({"a\nb": NAN}, "float", "nan at a b"),
            ({"x": object()}, "object", "type object at x"),
            ([{1, 2}], "set", "type set at [0]"),
            (b"x", "bytes", "type bytes"),
            (bytearray(b"x"), "bytearray", "type bytearray"),
            ({"z": 1j}, "complex", "type complex at z"),
            (np.array([1j]), "complex", "type complex at [0]"),
            (np.complex64(1j), "complex", "type complex"),
            (np.longdouble(1), "numpy.longdouble", "type numpy.longdouble"),
            (np.array([b"x"]), "bytes", "type bytes at [0]"),
            (np.ma.array([1], mask=[True]), "numpy.ma.MaskedArray", "type numpy.ma.MaskedArray"),
            ({"t": Tensor()}, f"{__name__}.Tensor", "at t"),
            (Hypothesis("a", Tensor()), f"{__name__}.Tensor", "at score"),
            ({"p": [Point(1, 2)]}, f"{__name__}.Point", "at p[0]"),
            (range(3), "range", "type range"),
            (iter([]), "list_iterator", "type list_iterator"),
            (len, "builtin_function_or_method", "type builtin"),
            (Hypothesis, "type", "type type"),
            ({"n": 2**64}, "int", "at n is not JSON (Integer exceeds 64-bit range)"),
            ({"s": "\udce9"}, "str", "at s is not JSON (str is not valid UTF-8"),
        ],
    )
    def test_what_json_cannot_hold_is_named(self, result: Any, type_name: str, place: str) -> None:
        with pytest.raises(UnserializableResult) as caught:
            encode_json({"utt": 7}, result)
        message = str(caught.value)
        assert caught.value.type_name == type_name
        assert caught.value.item == {"utt": 7}
        assert place in message
        assert "the result of item {'utt': 7}" in message
        assert "results: pickle" in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        "result", [{"\udce9": 1}, np.array([1], ">i4"), np.datetime64("NaT", "s")]
    )
    def test_what_else_json_cannot_hold(self, result: Any) -> None:
        with pytest.raises(UnserializableResult, match="cannot be stored as JSON"):
            encode_json(0, result)

    def test_results_that_hold_themselves_or_nest_too_deep(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        deep: Any = 1
        for _ in range(2000):
            deep = [deep]
        for result in (circle, deep, {"a": circle}):
            with pytest.raises(UnserializableResult, match="Recursion limit"):
                encode_json(0, result)


class TestPickle:
    @given(JSON, st.sets(st.integers()) | st.complex_numbers(allow_nan=False) | st.binary())
    def test_anything_that_pickles_comes_back(self, item: Any, result: Any) -> None:
        line = encode_pickle(item, result)
        assert line.count(b"\n") == 1
        assert decode_line(line, WHERE, unpickle=True) == ResultRecord(item, result)

    @pytest.mark.parametrize("result", [lambda: None, Unpicklable(), memoryview(b"")])
    def test_what_does_not_pickle_is_named(self, result: Any) -> None:
        with pytest.raises(UnserializableResult, match="pickle: ") as caught:
            encode_pickle(3, result)
        assert caught.value.type_name == type(result).__name__
        assert "\n" not in str(caught.value)

    def test_nothing_is_unpickled_unless_the_run_says_so(self) -> None:
        line = encode_pickle(0, Elsewhere())
        with pytest.raises(InvalidFile, match="results: json"):
            decode_line(line, WHERE)

    def test_what_cannot_be_unpickled_here(self) -> None:
        with pytest.raises(InvalidFile, match="cannot be unpickled here: ModuleNotFound") as caught:
            decode_line(encode_pickle(0, Elsewhere()), WHERE, unpickle=True)
        assert isinstance(caught.value.__cause__, ModuleNotFoundError)

    @given(st.binary(max_size=30))
    def test_damaged_pickles(self, data: bytes) -> None:
        whole = pickle.dumps({"a": [1, 2.5, "x"]})
        for damaged in (data.replace(b"c", b"").replace(b"\x93", b""), whole[: len(data)]):
            line = orjson.dumps({"item": 0, "pickle": damaged.hex()})
            with pytest.raises(InvalidFile) as caught:
                decode_line(line, WHERE, unpickle=True)
            assert "\n" not in str(caught.value)


class TestErrors:
    @given(JSON, TEXT, TEXT)
    def test_a_recorded_failure_comes_back(self, item: Any, message: str, trace: str) -> None:
        error = ErrorRecord(type="ValueError", message=message, traceback=trace)
        line = encode_error(item, error)
        assert line.count(b"\n") == 1
        for unpickle in (True, False):
            found = decode_line(line, WHERE, unpickle=unpickle)
            assert found == ResultRecord(item, None, error)

    def test_foreign_file_names(self) -> None:
        error = ErrorRecord(type="OSError", message="caf\udce9.wav")
        assert decode_line(encode_error(0, error), WHERE).error == error


@pytest.mark.parametrize("unpickle", [True, False])
@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"\0\0\0\n",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"[1]",
        b"{}",
        b'{"item":1}',
        b'{"result":1}',
        b'{"item":1,"result":1',
        b'{"item":1,"result":1}{"item":2,"result":2}',
        b'{"item":1,"error":{}}',
        b'{"item":1,"error":null}',
        b'{"item":1,"error":{"type":1,"message":2}}',
        b'{"item":1,"pickle":3}',
        b'{"item":1,"pickle":"*"}',
        b'{"item":1,"pickle":""}',
        b'{"item":1,"pickle":"\xc3\xa9"}',
        b'{"item":1,"result":"\xff"}',
    ],
)
def test_what_is_no_result_line(line: bytes, unpickle: bool) -> None:
    with pytest.raises(InvalidFile) as caught:
        decode_line(line, WHERE, unpickle=unpickle)
    assert caught.value.file == WHERE
    assert "\n" not in str(caught.value)


@given(JSON, st.integers(1, 40))
def test_a_line_cut_anywhere_is_no_result_line(result: Any, cut: int) -> None:
    line = encode_json("item", result).rstrip(b"\n")
    with pytest.raises(InvalidFile):
        decode_line(line[: max(0, len(line) - cut)], WHERE)


def test_many_lines_at_once_are_what_they_are_one_by_one() -> None:
    lines = [
        encode_json(0, {"a": [1, None]}),
        encode_error(1, ErrorRecord(type="ValueError", message="no")),
        encode_json("x", ""),
    ]
    one_by_one = [decode_line(line, "here") for line in lines]
    expected = [record.error or record.result for record in one_by_one]
    assert decode_results(b"".join(lines), "here") == expected
    assert decode_results(lines[0] + lines[2], "here") == [{"a": [1, None]}, ""]
    with pytest.raises(InvalidFile, match="not a result"):
        decode_results(lines[0] + b"[1]\n", "here")


def test_long_blocks_of_lines_are_decoded_in_their_order() -> None:
    lines = [encode_json(i, "y" * (i % 700)) for i in range(3000)]
    lines[1500] = encode_error(1500, ErrorRecord(type="ValueError", message="no"))
    results = decode_results(b"".join(lines).rstrip(b"\n"), "here")
    assert [getattr(result, "message", result) for result in results] == [
        "no" if i == 1500 else "y" * (i % 700) for i in range(3000)
    ]
