"""What an instance holds in plain values."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from espnet3.user_code.instances import Record, Recorded, its_own_changes, remember
from espnet3.user_code.plain_attributes import (
    decode_held,
    differences,
    encode_held,
    plain_attributes,
)


class Search(enum.Enum):
    GREEDY, BEAM = 1, 2


class Decoder:
    def __init__(self, beam: Any) -> None:
        self._beam, self.me = beam, self


class Slotted(Recorded):
    __slots__ = ("beam",)

    def __init__(self, beam: Any) -> None:
        remember(self, Record(((), {})))
        self.beam = beam


def paths(one: Any, other: Any) -> list[str]:
    there = decode_held(encode_held(plain_attributes(other)))
    return [path for path, _ in differences(plain_attributes(one), there)]


@pytest.mark.parametrize(
    ("one", "other", "path"),
    [
        (1, 2, ""), (1, 1.0, ""), ("a", b"a", ""), (True, 1, ""),
        ([1, 2], [1, 3], "[1]"), ({"a": (1, {"b": None})}, {"a": (1, {"b": 0})}, ".a[1].b"),
        (Search.GREEDY, Search.BEAM, ""), (Path("/a"), Path("/b"), ""), (Path("/a"), "/a", ""),
        (OmegaConf.create({"a": {"b": 1}}), OmegaConf.create({"a": {"b": 2}}), ".a.b"),
        (Decoder(OmegaConf.create({"a": 1})), Decoder(OmegaConf.create({"a": 2})), "._beam.a"),
    ],
)  # fmt: skip
def test_what_differs_is_named_by_its_path(one: Any, other: Any, path: str) -> None:
    for make in (Decoder, Slotted):
        name = "_beam" if make is Decoder else "beam"
        assert paths(make(one), make(other)) == [name + path]
        assert paths(make(one), make(one)) == []


def test_what_one_side_alone_has_or_cannot_be_compared_is_left_alone() -> None:
    assert paths(Decoder({1, 2}), Decoder({1, 3})) == []
    assert paths(Decoder([1]), Decoder([1, 2])) == []
    assert paths(Decoder(lambda: 1), Decoder(print)) == []


def test_secrets_are_compared_and_not_shown() -> None:
    one, other = (plain_attributes(Decoder({"api_key": key})) for key in ("one", "two"))
    assert list(differences(one, other)) == [
        ("_beam.api_key", "is '***' here and '***' in a worker")
    ]
    assert "one" not in encode_held(one)


def test_what_its_own_work_changed_is_left_alone() -> None:
    one, other = Slotted(1), Slotted(1)
    record = Recorded._espnet3.__get__(one)  # type: ignore[attr-defined]
    record.look(one)
    with its_own_changes(one):
        one.beam = 2
    assert paths(one, other) == []
    one.beam = 3
    assert paths(one, other) == []


def test_what_is_too_much_ends_somewhere() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    assert plain_attributes(Decoder(deep)) == {}
    assert len(plain_attributes(Decoder(list(range(50_000))))) <= 10_000
