"""What earlier attempts left: the longest valid prefix, and never a byte that is not valid."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.run_dir import result_lines
from espnet3.run_dir.salvage import NOTHING, Salvage, list_results, salvage
from espnet3.specs import layout
from espnet3.specs.layout import ResultFile
from espnet3.specs.models import ErrorRecord
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store

# Few different items, so that one item stands at several positions.
ITEMS = st.lists(st.sampled_from([0, 1, "a", "a\n", None, [1], {"x": 1.5}]), min_size=1, max_size=9)
RANK = 7
_numbers = itertools.count()


class Written(NamedTuple):
    """A file of an earlier attempt: valid lines from a position on, and then something else."""

    first: int
    valid: list[bytes]
    tail: bytes


@st.composite
def shards(draw: Any) -> tuple[list[Any], list[Written]]:
    """A shard's items, and files that attempts may have left, some of them overlapping."""
    items = draw(ITEMS)
    files = []
    for copy in range(draw(st.integers(0, 5))):
        first = draw(st.integers(0, len(items)))
        n = draw(st.integers(0, len(items) - first))
        valid = [line(item, copy, draw(st.booleans())) for item in items[first : first + n]]
        rest = items[first + n : first + n + 1]
        files.append(Written(first, valid, draw(tails(rest[0] if rest else 0, bool(rest)))))
    return items, files


def line(item: Any, copy: int, failed: bool = False) -> bytes:
    """A result line; two copies of one shard may have given different results."""
    if failed:
        return result_lines.encode_error(
            item, ErrorRecord(type="ValueError", message=f"copy {copy}")
        )
    return result_lines.encode_json(item, f"copy {copy}")


@st.composite
def tails(draw: Any, item: Any, more: bool) -> bytes:
    """What may follow the last valid line."""
    whole = line(item, 9)
    kinds = [
        b"",
        whole[: draw(st.integers(0, len(whole) - 1))],  # torn
        line("another item", 9) + whole,
        b"\0" * draw(st.integers(1, 40)),  # a hole that a crash of the host left
        b"\0" * 8 + b"\n" + whole,
        b"\n" + whole,
        b"null\n",
        b"[1, 2]\n" + whole,
        b'"item"\n',
        b'{"result": 1}\n',
        b'{"item": 1}\n' + whole,
        orjson.dumps({"item": item}) + b"\n",
        orjson.dumps({"item": item, "result": 1, "more": 2}) + b"\n",
        orjson.dumps({"item": item, "answer": 1}) + b"\n",
        orjson.dumps({"item": item, "result": 1})[:-1] + b"\n",
        b"\xff\xfe garbage \x00\n" + whole,
    ]
    if not more:
        kinds += [whole, whole * 3]  # more lines than the shard has items
    tail: bytes = draw(st.sampled_from(kinds) | st.binary(max_size=30).map(lambda b: b"!" + b))
    return tail


def write(store: Store, files: list[Written]) -> list[ResultFile]:
    names = []
    for n, file in enumerate(files):
        name = ResultFile(RANK, f"0001-{n:012x}", file.first)
        store.create(layout.result(*name), b"".join(file.valid) + file.tail)
        names.append(name)
    return names


def believed(file: Written) -> int:
    """How many of a file's lines count: not the failed items at its end."""
    good = [n for n, one in enumerate(file.valid, 1) if b'"error"' not in one]
    return max(good, default=0)


def longest(files: list[Written]) -> int:
    """The longest prefix that can be put together, found by trying until nothing changes."""
    reached, before = 0, -1
    while reached != before:
        before = reached
        ends = [f.first + believed(f) for f in files if f.first <= reached]
        reached = max([reached, *ends])
    return reached


def bytes_of(store: Store, found: Salvage) -> list[bytes]:
    """The lines that the parts vouch for, after a check of every part."""
    lines: list[bytes] = []
    for part in found.parts:
        data = store.read(f"{layout.RESULTS}/{part.file}")[: part.bytes]
        assert part.first == len(lines)
        assert part.file.startswith(f"{RANK:06d}.")
        assert part.checksum == "sha256:" + hashlib.sha256(data).hexdigest()
        assert data.count(b"\n") == part.records > 0
        assert data.endswith(b"\n")
        lines += data.splitlines(keepends=True)
    return lines


def new_store() -> Store:
    return open_store(f"memory://unit/salvage-{next(_numbers)}")


@given(shards())
def test_the_longest_prefix_is_salvaged_and_nothing_else(
    shard: tuple[list[Any], list[Written]],
) -> None:
    items, files = shard
    store = new_store()
    found = salvage(store, write(store, files), items)
    lines = bytes_of(store, found)
    assert found.records == len(lines) == longest(files)
    decoded = [result_lines.decode_line(one, "") for one in lines]
    assert [record.item for record in decoded] == items[: found.records]
    assert found.errors == sum(record.error is not None for record in decoded)
    # Each line is one that some attempt wrote for that very position.
    for position, one in enumerate(lines):
        assert one in [
            f.valid[position - f.first] for f in files if 0 <= position - f.first < len(f.valid)
        ]


@given(shards(), st.randoms())
def test_the_order_of_the_files_does_not_matter(
    shard: tuple[list[Any], list[Written]], random: Any
) -> None:
    items, files = shard
    store = new_store()
    names = write(store, files)
    expected = salvage(store, names, items).records
    random.shuffle(names)
    assert salvage(store, names, items).records == expected


@given(ITEMS, st.data())
def test_any_split_of_a_shard_among_attempts_is_put_together(
    items: list[Any], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, len(items)), max_size=4)) | {0, len(items)})
    whole = [line(item, 0) for item in items]
    files = [Written(a, whole[a:b], b"") for a, b in itertools.pairwise(cuts)]
    store = new_store()
    found = salvage(store, write(store, files), items)
    assert b"".join(bytes_of(store, found)) == b"".join(whole)
    assert len(found.parts) == len(files)


def test_a_file_torn_at_any_byte_keeps_its_whole_lines() -> None:
    items = ["a", "é\n", 3]
    whole = [line(item, 0) for item in items]
    data = b"".join(whole)
    for cut in range(len(data) + 1):
        store = new_store()
        name = ResultFile(RANK, "0001-000000000000", 0)
        store.create(layout.result(*name), data[:cut])
        found = salvage(store, [name], items)
        assert found.records == data[:cut].count(b"\n")
        assert b"".join(bytes_of(store, found)) == b"".join(whole[: found.records])


@given(st.binary(max_size=80), st.integers(0, 200))
def test_a_changed_byte_never_makes_a_wrong_line(noise: bytes, at: int) -> None:
    items = list(range(6))
    data = bytearray(b"".join(line(item, 0) for item in items))
    at = min(at, len(data))
    data[at : at + len(noise)] = noise
    store = new_store()
    name = ResultFile(RANK, "0001-000000000000", 0)
    store.create(layout.result(*name), bytes(data))
    found = salvage(store, [name], items)
    decoded = [result_lines.decode_line(one, "") for one in bytes_of(store, found)]
    assert [record.item for record in decoded] == items[: found.records]


@pytest.mark.parametrize("kind", ["pickle", "error", "result"])
def test_all_kinds_of_lines_are_salvaged(kind: str, store: Store) -> None:
    made = {
        "pickle": result_lines.encode_pickle(0, {1}),
        "error": result_lines.encode_error(0, ErrorRecord(type="E", message="m")),
        "result": result_lines.encode_json(0, {"item": 1}),
    }[kind]
    good = result_lines.encode_json(1, "good")
    found = salvage(store, write(store, [Written(0, [made, good], b"")]), [0, 1])
    assert (found.records, found.errors) == (2, int(kind == "error"))


def test_failed_items_at_the_end_are_computed_again(store: Store) -> None:
    # What killed the attempt may have killed what they ran a moment before.
    error = ErrorRecord(type="E", message="m")
    made = [
        result_lines.encode_json(0, "good"),
        *(result_lines.encode_error(i, error) for i in (1, 2)),
    ]
    found = salvage(store, write(store, [Written(0, made, b"")]), [0, 1, 2, 3])
    assert (found.records, found.errors) == (1, 0)


def test_a_file_that_is_gone_and_no_files_give_nothing(store: Store) -> None:
    assert salvage(store, [ResultFile(RANK, "0001-000000000000", 0)], [1]) == NOTHING
    assert salvage(store, [], [1]) == NOTHING


def test_result_files_are_listed_by_rank_without_foreign_ones(store: Store) -> None:
    names = [ResultFile(0, "0001-00000000000a", 0), ResultFile(0, "0002-00000000000b", 3),
             ResultFile(12, "0001-00000000000c", 0)]  # fmt: skip
    for name in names:
        store.create(layout.result(*name), b"")
    store.create("results/README", b"")
    store.create("results/000000.json", b"")
    found = list_results(store)
    assert {rank: sorted(files) for rank, files in found.items()} == {
        0: names[:2],
        12: names[2:],
    }
