"""A look at a value: what it tells apart, and that it keeps no copy."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import functools
import gc
import math
import tracemalloc
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from omegaconf import OmegaConf

from espnet3.user_code import fingerprints
from espnet3.user_code.equality import alike
from espnet3.user_code.fingerprints import fingerprint
from tests.unit.user_code.test_values import EXACT, PLAIN


class Tool:
    def __init__(self) -> None:
        self.size = 1
        self.inner: Any = None
        self._private = 1


class Search(enum.Enum):
    BEAM = 1


@dataclasses.dataclass
class Options:
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1])


class Manifest(list[Any]):
    pass


def around_itself() -> Any:
    made: dict[str, Any] = {"list": [1]}
    made["list"].append(made)
    return made


CHANGES: list[tuple[Any, Callable[[Any], Any]]] = [
    ([1, [2]], lambda v: v[1].append(3)),
    ([1], lambda v: v.__setitem__(0, True)),
    ([0.0], lambda v: v.__setitem__(0, -0.0)),
    ({"a": 1, "b": 2}, lambda v: v.update(a=v.pop("a"))),
    ({"a": {1}}, lambda v: v["a"].add(2)),
    (OmegaConf.create({"a": {"b": 1}}), lambda v: v.a.update(b=2)),
    (OmegaConf.create({"a": {"b": 1}}), lambda v: OmegaConf.set_struct(v.a, True)),
    (OmegaConf.create({"a": "${b}", "b": 1}), lambda v: v.update(a=1)),
    (argparse.Namespace(beam=1), lambda v: setattr(v, "beam", 2)),
    (Options(), lambda v: v.sizes.append(2)),
    (collections.OrderedDict(a=1), lambda v: v.update(a=2)),
    (collections.deque([1]), lambda v: v.append(2)),
    (Manifest([1]), lambda v: v.append(2)),
    (np.zeros(3), lambda v: v.__setitem__(0, 1)),
    (np.zeros((3, 4)).T, lambda v: v.__setitem__((0, 0), 1)),
    (np.zeros((8, 8))[::2, ::2], lambda v: v.__setitem__((0, 0), 1)),
    (np.zeros(fingerprints._ARRAYS // 8 + 1), lambda v: v.__setitem__(slice(None), 1)),
    (Tool(), lambda v: setattr(v, "size", 2)),
    ([Tool()], lambda v: v.__setitem__(0, Tool())),
    ([Tool()], lambda v: setattr(v[0], "inner", 2)),
    (functools.partial(max, [1]), lambda v: v.args[0].append(2)),
    (around_itself(), lambda v: v["list"].append(1)),
    ([[i] for i in range(fingerprints._SORTED)], lambda v: v[-1].append(1)),
    ([Tool() for _ in range(fingerprints._OBJECTS + 1)], lambda v: v.pop()),
]


@pytest.mark.parametrize(
    ("value", "change"), CHANGES, ids=[type(value).__name__ for value, _ in CHANGES]
)
def test_a_change_in_place_is_seen_and_nothing_else(
    value: Any, change: Callable[[Any], Any]
) -> None:
    before = fingerprint(value)
    assert before.same(value)
    change(value)
    assert not before.same(value)


@given(PLAIN, PLAIN)
def test_it_tells_apart_what_a_comparison_does(one: Any, other: Any) -> None:
    assert fingerprint(one).same(copy.deepcopy(one))
    assert fingerprint(one) == fingerprint(copy.deepcopy(one))
    assert fingerprint(one).same(other) is alike(one, other)


@pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
def test_a_copy_of_data_is_the_same(value: Any) -> None:
    assert fingerprint(value, opened=False).same(copy.deepcopy(value))


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({1: 2}, {True: 2}), ({1}, {True}),
     (Path("a"), "a"), (Search.BEAM, 1), (np.int64(1), 1), (np.float64(1), 1.0),
     (np.zeros(2), np.zeros(2, "f4")), (np.zeros((1, 2)), np.zeros((2, 1))),
     (collections.OrderedDict(a=1), {"a": 1}), (types.SimpleNamespace(a=1), {"a": 1})],
)  # fmt: skip
def test_equal_is_not_the_same(one: Any, other: Any) -> None:
    assert not fingerprint([one]).same([other])


def test_order_in_a_set_says_nothing() -> None:
    one, other = {8, 0}, {0, 8}
    assert [*one] != [*other]
    assert fingerprint({"a": one}).same({"a": other})
    assert fingerprint([math.nan]).same([math.nan])


def test_private_attributes_and_what_lies_deep_are_an_objects_own_affair() -> None:
    tool = Tool()
    deepest = tool
    for _ in range(4):
        deepest.inner = Tool()
        deepest = deepest.inner
    before = fingerprint(tool)
    tool._private = 2
    deepest.size = 2
    assert before.same(tool)


def test_a_mapped_file_is_not_read(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "data", shape=(4,), mode="w+")
    for value in (mapped, np.asarray(mapped)):
        before = fingerprint(value)
        value[0] += 1
        assert before.same(value)


def test_what_runs_code_of_the_users_breaks_nothing() -> None:
    class Strange:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise RuntimeError

        def __reduce__(self) -> Any:
            raise RuntimeError

    value = [Strange()]
    assert fingerprint(value).same(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: [np.ones(30_000) for _ in range(100)],
        lambda: [np.ones((3_000, 10)).T for _ in range(100)],
        lambda: [{"id": f"utterance-{i}", "duration": i * 0.1} for i in range(50_000)],
    ],
)
def test_a_look_keeps_next_to_nothing(make: Callable[[], Any]) -> None:
    tracemalloc.start()
    try:
        value = make()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        before = fingerprint(value)
        assert before.same(value)
        assert tracemalloc.get_traced_memory()[1] - held < held / 10
    finally:
        tracemalloc.stop()
