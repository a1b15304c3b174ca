"""What items weigh, and shards that are cut by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from espnet3.errors import ConfigError
from espnet3.specs.items import ItemList, ItemRange
from espnet3.submit.weights import by_call, equal_weight_bounds, shard_weights, weights_of

ITEMS = ItemList(values=["a", "bb", "ccc"])
THREE = [1.0, 2.0, 3.0]


class Tensor:
    """A number of a library, as far as Python can tell; one of several numbers is none."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = numbers

    def __float__(self) -> float:
        if len(self.numbers) != 1:
            raise RuntimeError("only one-element tensors can be converted")
        return self.numbers[0]


def length(item: str) -> int:
    return len(item)


def tensor(item: str) -> Tensor:
    return Tensor(float(len(item)))


def two_numbers(item: str) -> Tensor:
    return Tensor(1.0, 2.0)


def none_of_bb(item: str) -> float:
    if item == "bb":
        raise KeyError("no length")
    return 1.0


def leaves(item: str) -> float:
    raise SystemExit(3)


def test_a_list() -> None:
    assert weights_of([1, 2.0, 3], ITEMS) == THREE
    assert weights_of([0, 0, 0], ITEMS) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.txt", "1\n2\n3\n"),
        ("one line.txt", " 1 2.0\t3e0"),
        ("marked.txt", "\ufeff1\r\n2\r\n3\r\n"),
        ("list.json", "[1, 2.0, 3]"),
        ("list.txt", "\n [1,\n2,\n3]\n"),
        ("marked.json", "\ufeff[1, 2, 3]"),
    ],
)
def test_a_file(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert weights_of(str(tmp_path / name), ITEMS) == THREE


def test_a_file_of_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "seconds.txt").write_text("1 2 3")
    assert weights_of("~/seconds.txt", ITEMS) == THREE


@pytest.mark.parametrize("name", ["length", "tensor"])
def test_a_function(name: str) -> None:
    assert weights_of(f"{__name__}:{name}", ITEMS) == THREE
    assert weights_of("math:sqrt", ItemRange(start=4, stop=5)) == [2.0]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("empty.txt", "", "are 0 for 3 items"),
        ("empty.json", "", "empty.json: "),
        ("none.json", "[]", "are 0 for 3 items"),
        ("few.txt", "1 2", "are 2 for 3 items; give one for each"),
        ("many.txt", "1 2 3 4", "are 4 for 3 items"),
        ("object.json", '{"a": 1}', "object.json: holds no list"),
        ("object.txt", '{"a": 1}', "object.txt: holds no list"),
        ("number.json", "3", "number.json: holds no list"),
        ("cut.json", "[1, 2", "cut.json: unexpected end of data"),
        ("nan.json", "[1, NaN, 3]", "nan.json: "),
        ("nan.txt", "1 nan 3", r"weights\[1\]: must be a finite number from 0, got 'nan'"),
        ("inf.txt", "inf 1 1", r"weights\[0\]: must be a finite number from 0, got 'inf'"),
        ("words.txt", "one two three", r"weights\[0\]: .* got 'one'"),
        ("minus.json", "[1, 2, -0.5]", r"weights\[2\]: .* got -0.5"),
        ("true.json", "[1, true, 1]", r"weights\[1\]: .* got True"),
        ("null.json", "[null, 1, 1]", r"weights\[0\]: .* got None"),
    ],
)
def test_a_wrong_file(tmp_path: Path, name: str, text: str, problem: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        weights_of(str(tmp_path / name), ITEMS)
    assert "\n" not in str(caught.value)


def test_no_such_file() -> None:
    with pytest.raises(ConfigError, match="No such file or directory; name a file, or a function"):
        weights_of("/nowhere/seconds.txt", ITEMS)


@pytest.mark.parametrize(
    "said", [[], [1.0], [1.0, 2.0, 3.0, 4.0], [1, -1, 1], [1, math.nan, 1], [1, math.inf, 1],
             [1, True, 1], [1, None, 1], [1, 10**400, 1]]
)  # fmt: skip
def test_a_wrong_list(said: Sequence[float]) -> None:
    problem = "finite number from 0" if len(said) == 3 else f"are {len(said)} for 3 items"
    with pytest.raises(ConfigError, match=problem):
        weights_of(said, ITEMS)


def test_a_function_that_fails_is_named_with_its_item() -> None:
    with pytest.raises(ConfigError, match="none_of_bb: failed for item 'bb': KeyError") as caught:
        weights_of(f"{__name__}:none_of_bb", ITEMS)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ConfigError, match="leaves: failed for item 'a': SystemExit: 3"):
        weights_of(f"{__name__}:leaves", ITEMS)
    with pytest.raises(ConfigError, match="two_numbers: failed for item 'a': RuntimeError: only"):
        weights_of(f"{__name__}:two_numbers", ITEMS)


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("no_such_module_at_all:f", "cannot be imported: ModuleNotFoundError"),
        ("math:no_such_function", "cannot be imported: AttributeError"),
        ("math:pi", "math:pi is 3.14.*, no function"),
    ],
)
def test_no_such_function(said: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        weights_of(said, ITEMS)


def test_calls_and_shards() -> None:
    assert by_call([1.0, 2.0, 3.0], None) == THREE
    assert by_call([1.0, 2.0, 3.0], 2) == [3.0, 3.0]
    assert equal_weight_bounds([5.0, 1.0, 1.0], 3) == [0, 1, 2, 3]  # each has an item
    assert equal_weight_bounds([0.0, 0.0, 0.0, 0.0], 2) == [0, 2, 4]  # without weight: by number
    assert equal_weight_bounds([9.0, 1.0, 0.0, 0.0], 2) == [0, 1, 4]
    assert shard_weights([1.0, 2.0, 3.0], [0, 2, 3]) == [3.0, 3.0]
