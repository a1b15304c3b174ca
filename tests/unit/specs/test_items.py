"""Items: what a caller gives, what is stored, and how it is cut."""

from __future__ import annotations

import enum
import itertools
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from espnet3.errors import ItemsError
from espnet3.specs.items import (
    ItemList,
    ItemRange,
    Items,
    batched,
    count_batches,
    plan_items,
)
from espnet3.specs.plain import MAX_DEPTH
from tests.support.strategies import INT64, JSON

_stored: TypeAdapter[ItemRange | ItemList] = TypeAdapter(Items)
RANGES = st.builds(
    lambda start, n, step: range(start, start + n * step, step),
    st.integers(-(10**12), 10**12),
    st.integers(1, 60),
    st.integers(1, 10**6),
)
LISTS = st.lists(JSON, min_size=1, max_size=30)


class Size(enum.IntEnum):
    SMALL = 1


class TestPlan:
    @given(RANGES)
    def test_a_range_and_its_list_are_stored_as_the_same_range(self, items: range) -> None:
        planned = plan_items(items)
        assert isinstance(planned, ItemRange)
        assert list(planned) == list(items)
        assert planned == plan_items(list(items)) == plan_items(iter(items))
        assert planned.digest() == plan_items(np.array(items)).digest()

    @given(st.lists(INT64, min_size=1, max_size=6))
    def test_integers_are_kept_whether_they_form_a_range_or_not(self, items: list[int]) -> None:
        planned = plan_items(items)
        steps = {b - a for a, b in itertools.pairwise(items)}
        assert list(planned) == items
        assert isinstance(planned, ItemRange) == (len(steps) <= 1 and min(steps, default=1) > 0)

    @given(LISTS)
    def test_any_json_values_are_stored_as_they_are(self, items: list[Any]) -> None:
        planned = plan_items(items)
        again = _stored.validate_json(_stored.dump_json(planned))
        assert again == planned
        assert list(again) == list(planned) == items
        assert again.digest() == planned.digest()

    @given(LISTS, LISTS)
    def test_digests_differ_where_items_differ(self, one: list[Any], other: list[Any]) -> None:
        a, b = plan_items(one), plan_items(other)
        same = orjson.dumps(list(a)) == orjson.dumps(list(b))  # 1, 1.0 and true are three things
        assert (a.digest() == b.digest()) is same

    @pytest.mark.parametrize(
        ("items", "planned"),
        [
            (range(5, 0, -2), [5, 3, 1]),
            (np.arange(3, dtype=np.int32), [0, 1, 2]),
            (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
            ([np.int64(7), np.float32(0.5), np.bool_(True), np.str_("a")], [7, 0.5, True, "a"]),
            ([(1, ("a", None))], [[1, ["a", None]]]),
            ([{"wav": "a.wav", "span": (0, 1.5)}], [{"wav": "a.wav", "span": [0, 1.5]}]),
            ([Size.SMALL, "x"], [1, "x"]),
            ((i * i for i in range(4)), [0, 1, 4, 9]),
            ([True, False], [True, False]),
            ([0, 0], [0, 0]),
            (["é", "日本"], ["é", "日本"]),
        ],
    )
    def test_what_items_mean_in_json(self, items: Any, planned: list[Any]) -> None:
        stored = _stored.validate_json(_stored.dump_json(plan_items(items)))
        assert list(stored) == planned
        assert [type(item) for item in stored] == [type(item) for item in planned]

    @pytest.mark.parametrize("items", [[], (), range(0), range(3, 3), iter(()), np.array([])])
    def test_no_items(self, items: Any) -> None:
        with pytest.raises(ItemsError, match="there are none"):
            plan_items(items)

    @pytest.mark.parametrize("items", ["abc", b"abc", {"a": 1}, 5, None, object()])
    def test_what_is_no_list_of_items(self, items: Any) -> None:
        with pytest.raises(ItemsError, match="expected an iterable") as caught:
            plan_items(items)
        assert type(items).__name__ in str(caught.value)

    @pytest.mark.parametrize(
        ("item", "words"),
        [
            (float("nan"), r"items\[1\]: nan is not JSON"),
            (float("inf"), r"items\[1\]: inf is not JSON"),
            ({"a": [1, np.nan]}, r"items\[1\]\.a\[1\]: nan"),
            ({1: 2}, r"items\[1\]: the key 1 is not a string"),
            ([{"a": {None: 2}}], r"items\[1\]\[0\]\.a: the key None is not a string"),
            ({"a": {2, 3}}, r"items\[1\]\.a: .* of type set is not JSON"),
            (b"x", r"items\[1\]: .* of type bytes"),
            (1j, r"items\[1\]: .* of type complex"),
            (object(), r"items\[1\]: .* of type object"),
            (np.array([1j]), r"items\[1\]\[0\]: .* of type complex"),
            (2**64, "64-bit"),
            ("\udce9", "surrogates"),
            ({"a\nb": object()}, r"items\[1\]\.a b: "),
        ],
    )
    def test_what_is_no_json_is_named_with_its_place(self, item: Any, words: str) -> None:
        with pytest.raises(ItemsError, match=words) as caught:
            plan_items([0, item])
        assert "\n" not in str(caught.value)

    def test_ranges_beyond_what_results_can_hold(self) -> None:
        with pytest.raises(ItemsError, match="64-bit"):
            plan_items(range(2**64, 2**64 + 2))

    def test_items_that_hold_themselves_or_nest_too_deep(self) -> None:
        circle: list[Any] = []
        circle.append(circle)
        deep: Any = 1
        for _ in range(MAX_DEPTH):
            deep = [deep]
        stored = _stored.validate_json(_stored.dump_json(plan_items([deep])))
        assert list(stored) == [deep]
        for item in (circle, [deep]):
            with pytest.raises(ItemsError, match="nested deeper"):
                plan_items([item])


class TestParts:
    @given(RANGES | LISTS, st.lists(st.integers(0, 60), max_size=5))
    def test_slices_make_the_whole(self, items: Any, cuts: list[int]) -> None:
        planned = plan_items(items)
        bounds = [0, *sorted(min(cut, len(planned)) for cut in cuts), len(planned)]
        parts = [planned.part(first, last) for first, last in itertools.pairwise(bounds)]
        assert [item for part in parts for item in part] == list(planned) == list(items)
        assert [len(part) for part in parts] == [b - a for a, b in itertools.pairwise(bounds)]
        for part in parts:
            assert _stored.validate_json(_stored.dump_json(part)) == part

    @given(RANGES | LISTS, st.integers(1, 70))
    def test_batches_make_the_whole(self, items: Any, batch_size: int) -> None:
        planned = plan_items(items)
        batches: list[Any] = list(batched(planned, batch_size))
        assert [item for batch in batches for item in batch] == list(items)
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert 1 <= len(batches[-1]) <= batch_size
        assert len(batches) == count_batches(len(planned), batch_size)

    @given(RANGES | LISTS)
    def test_without_a_batch_size_items_come_one_by_one(self, items: Any) -> None:
        planned = plan_items(items)
        assert list(batched(planned, None)) == list(items)
        assert count_batches(len(planned), None) == len(planned)

    def test_a_range_of_any_length_takes_no_memory(self) -> None:
        planned = plan_items(range(10**12))
        assert len(planned) == 10**12
        assert list(planned.part(10**12 - 2, 10**12)) == [10**12 - 2, 10**12 - 1]
        assert batched(planned, 3)[0] == [0, 1, 2]


@pytest.mark.parametrize(
    "stored",
    [
        {"kind": "range", "start": 0, "stop": 3, "step": 0},
        {"kind": "range", "start": 0, "stop": 3, "step": -1},
        {"kind": "range", "start": 0.0, "stop": 3},
        {"kind": "range", "start": 0, "stop": 3, "values": []},
        {"kind": "list", "values": None},
        {"kind": "tuple", "values": []},
        {"start": 0, "stop": 3},
    ],
)
def test_stored_items_that_are_none(stored: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _stored.validate_python(stored)
