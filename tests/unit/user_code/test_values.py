"""Values of provider and variables: what comes back is what was stored, or it is refused."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import decimal
import enum
import math
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from espnet3.errors import ConfigError
from espnet3.user_code.equality import alike, copied
from espnet3.user_code.restoring import restored
from espnet3.user_code.values import stored, stored_and_early


class Search(enum.Enum):
    GREEDY = 1
    BEAM = 2


class Level(enum.IntEnum):
    HIGH = 3


class Name(enum.StrEnum):
    CTC = "ctc"


class Mode(enum.Flag):
    READ = 1
    WRITE = 2


class Pair(NamedTuple):
    left: int
    right: Any


class Word(str):
    __slots__ = ()


@dataclasses.dataclass
class Inner:
    size: int = 3
    search: Search = Search.GREEDY


@dataclasses.dataclass
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    sizes: list[int] = dataclasses.field(default_factory=lambda: [1])
    needed: str = "???"
    same: int = "${inner.size}"  # type: ignore[assignment]


STRUCT = OmegaConf.create({"a": 1, "b": {"c": 2}})
OmegaConf.set_struct(STRUCT, True)
OmegaConf.set_readonly(STRUCT.b, True)
ROOT = OmegaConf.create({"c": 5, "sub": {"x": "${c}", "y": "${.x}", "list": ["${c}", {"q": (1,)}]}})

EXACT: list[Any] = [
    None, True, 1, -0.0, math.nan, math.inf, -math.inf, 2**64, -(2**90), "", "???", "${a}", b"\x00",
    (), (1, (2,)), [()], {(1, 2): "a", None: 3, 4: (5,)}, {1: {2: {3: b""}}}, {True: 1}, {1.5: 1},
    {1, 2}, frozenset({"a"}), {"a", 1, None}, Search.BEAM, Level.HIGH, Name.CTC, Mode.READ,
    {Search.BEAM: Path("x")}, Word("w"), Path("/a"), PurePosixPath("b"), PureWindowsPath("c"),
    Pair(1, [Pair(2, 3)]), Inner(4), argparse.Namespace(path=Path("x")), SimpleNamespace(a=1),
    collections.OrderedDict(b=1, a=2), collections.OrderedDict({1: 2}), collections.Counter("aab"),
    np.float64(0.1), np.float32(0.1), np.int64(3), np.bool_(True), np.str_("a"), np.float64("nan"),
    OmegaConf.create({"e": Search.BEAM, "p": Path("a/b"), "b": b"x", "f": math.nan, "big": 2**80}),
    OmegaConf.create({"missing": "???", "unresolvable": "${nope}", "unknown": "${whatever:1}"}),
    OmegaConf.create({"a": 1, "b": "${a}", "c": "x${.a}", "d": "${e}", "e": {"f": "\\${a}"}}),
    OmegaConf.create({1: 2, Search.BEAM: {"x": "${nope}"}}), OmegaConf.create([1, "${.0}", [None]]),
    ROOT, ROOT.sub, STRUCT, STRUCT.b, {"config": STRUCT, "list": [ROOT.sub]},
    stored, argparse.Namespace(func=stored, beam=1),
    collections.deque([1, (2,)]), OmegaConf.structured(Outer),
    OmegaConf.create({"o": OmegaConf.structured(Outer)}),
]  # fmt: skip


@pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
def test_what_is_stored_comes_back_exactly(value: Any) -> None:
    argument = stored(value, "config")
    again = restored(type(argument).model_validate_json(argument.model_dump_json()))
    assert type(again) is type(value)
    assert alike(value, again, resolved=True)
    assert (
        isinstance(value, set | frozenset)
        or repr(again) == repr(value)
        or value is ROOT.sub
        or "ROOT" in repr(value)
        or _early(value)
    )


def _early(value: Any) -> bool:
    """Whether it refers to a parent, which a worker does not have."""
    return stored_and_early(value, "config")[1]


PLAIN = st.recursive(
    st.sampled_from([v for v in EXACT[:34] if isinstance(v, collections.abc.Hashable)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", 1, None, (1,), Search.BEAM, b"k"]), inner)
    ),
    max_leaves=8,
)


@given(PLAIN)
def test_any_nesting_comes_back_exactly(value: Any) -> None:
    again = restored(stored(value, "config"))
    assert alike(value, again)
    assert repr(again) == repr(value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Mode.READ | Mode.WRITE, "Mode"),
        (collections.defaultdict(list), "cannot be rebuilt identically"),
        (decimal.Decimal(1), "Decimal"),
        (np.arange(3), "ndarray"),
        (np.longdouble(1), "longdouble"),
        (object(), "object"),
        (lambda: 1, "function"),
        (collections.deque([1], 2), "cannot be rebuilt identically"),
        (enum.Enum("Made", "A").A, "cannot be rebuilt identically"),  # type: ignore[attr-defined]
    ],
)
def test_what_would_be_another_value_is_refused_by_name(value: Any, words: str) -> None:
    for config, name in [({"a": [value]}, "config.a.0"), ((value,), "config.0")]:
        with pytest.raises(ConfigError) as caught:
            stored(config, "config")
        assert caught.value.field in (name, "config")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_flags_of_configs_come_back() -> None:
    again = restored(stored(STRUCT, "config"))
    assert OmegaConf.is_struct(again)
    assert OmegaConf.is_readonly(again.b)
    assert not OmegaConf.is_readonly(again)
    assert OmegaConf.is_struct(restored(stored(STRUCT.b, "config")))  # its parent's


def test_an_interpolation_follows_what_the_constructor_changes() -> None:
    again = restored(stored(OmegaConf.create({"n": "${count}", "count": 1}), "config"))
    again.count = 3
    assert again.n == 3


def test_what_asks_the_environment_is_settled_where_it_is_submitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("H2_BEAM", "20")
    argument = stored(OmegaConf.create({"beam": "${oc.env:H2_BEAM}"}), "config")
    monkeypatch.delenv("H2_BEAM")
    assert restored(argument).beam == "20"
    assert not argument.restored


def test_plain_values_need_no_notes() -> None:
    """So plans of version 1 keep their fingerprint."""
    for value in ({"a": [1, "b", None, 1.5, True]}, OmegaConf.create({"a": {"b": [1]}})):
        assert stored(value, "config").restored == []


def test_a_copy_is_not_reached_by_later_changes() -> None:
    inner: list[Any] = [1]
    value = {
        "a": inner,
        "b": inner,
        "c": (inner, {2}),
        "d": OmegaConf.create({"x": [1]}),
        "e": Inner(),
    }
    value["self"] = value
    before = copied(value)
    assert alike(before, value)
    assert before["a"] is before["b"]
    inner.append(2)
    value["d"].x.append(2)  # type: ignore[attr-defined]
    value["e"].size = 4  # type: ignore[attr-defined]
    assert (before["a"], before["c"][0], before["d"].x, before["e"].size) == ([1], [1], [1], 3)
    assert not alike(before, value)


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, True), (1, 1.0), (0.0, -0.0), ([1], (1,)), ({1: 2}, {True: 2}), ({1}, {True}),
     ("a", Word("a")),
     ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (np.int64(1), 1), (OmegaConf.create([1]), [1])],
)  # fmt: skip
def test_equal_is_not_the_same(one: Any, other: Any) -> None:
    assert not alike(one, other)
    assert not alike(other, one)
