"""A Struct is what a NamedTuple of the same fields is, and is made as one is."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import pytest

from espnet3._structs import Struct


class Extent(Struct):
    """Some of a shard."""

    first: int
    end: int
    name: str = "all"

    def size(self) -> int:
        return self.end - self.first


class TheirExtent(NamedTuple):
    """Some of a shard."""

    first: int
    end: int
    name: str = "all"

    def size(self) -> int:
        return self.end - self.first


USES: list[Callable[[Any], Any]] = [
    lambda made: made(1, 3),
    lambda made: made(1, 3, "some"),
    lambda made: made(end=3, first=1),
    lambda made: made(1, name="some", end=3),
    lambda made: made(1, 3).size(),
    lambda made: made(1, 3).name,
    lambda made: made(1, 3)._replace(name="some", first=0),
    lambda made: made(1, 3)._asdict(),
    lambda made: made._fields,
    lambda made: made._field_defaults,
    lambda made: made(1, 3) == (1, 3, "all"),
    lambda made: made(1, 3) < made(2, 0),
    lambda made: {made(1, 3), made(1, 3), made(1, 4)},
    lambda made: [*made(1, 3)],
    lambda made: pickle.loads(pickle.dumps(made(1, 3))),
    lambda made: copy.deepcopy(made(1, 3)),
]
WRONG: list[Callable[[Any], Any]] = [
    lambda made: made(1),
    lambda made: made(1, 2, "some", 4),
    lambda made: made(1, 2, first=1),
    lambda made: made(1, 2, length=1),
    lambda made: made(name="some"),
]


@pytest.mark.parametrize("use", USES)
def test_it_does_what_a_named_tuple_does(use: Callable[[Any], Any]) -> None:
    ours, theirs = use(Extent), use(TheirExtent)
    assert ours == theirs
    assert repr(ours) == repr(theirs).replace("TheirExtent", "Extent")
    assert isinstance(ours, Extent) is isinstance(theirs, TheirExtent)


@pytest.mark.parametrize("use", WRONG)
def test_it_takes_only_its_fields(use: Callable[[Any], Any]) -> None:
    for made in (Extent, TheirExtent):
        with pytest.raises(TypeError):
            use(made)


def test_its_fields_stay() -> None:
    extent: Any = Extent(1, 3)
    with pytest.raises(AttributeError):
        extent.first = 2


def test_what_would_have_other_fields_than_it_says_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^More: the fields of a Struct cannot be added to$"):

        class More(Extent):
            more: int = 0

    with pytest.raises(TypeError, match=r"^Counted: a ClassVar would be a field of it$"):

        class Counted(Struct):
            n: int
            most: ClassVar[int] = 3


def test_what_is_not_taken_is_said() -> None:
    with pytest.raises(
        TypeError, match=r"^Extent takes first and end and name, each at most once$"
    ):
        Extent(1, 2, length=1)  # type: ignore[call-arg]
