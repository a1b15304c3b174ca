"""What people read says `1 item`, not `1 items`: numbers of things are written by `counted`."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import espnet3
from espnet3.errors import FailedItems, IncompleteRun
from espnet3.run_dir.processes import this_process
from espnet3.specs.finishing import Finished
from espnet3.specs.models import now
from espnet3.status.finishing import in_words
from espnet3.text import counted

PACKAGE = Path(espnet3.__file__).parent
MANY = re.compile(
    r" (attempts|errors|files|GPUs|hours|items|jobs|lines|nodes|receipts|records|results|runs|"
    r"seconds|shards|submissions|tasks|times|waves|workers)\b(?!/s)"
)
NEVER_ONE = {"MOST_ROWS", "len(shapes)", "len(without)", "rank"}  # or no number of things


def numbers_of_many() -> Iterator[tuple[str, str]]:
    """Each place in an f-string where a number is followed by things in the plural."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for number, words in pairwise(parts):
                is_text = isinstance(words, ast.Constant) and MANY.match(str(words.value))
                if is_text and isinstance(number, ast.FormattedValue):
                    yield f"{file.name}:{number.lineno}", ast.unparse(number.value)


def test_no_number_of_things_is_written_by_hand() -> None:
    assert [found for found in numbers_of_many() if found[1] not in NEVER_ONE] == []


def test_one_shard_and_one_item() -> None:
    words = str(IncompleteRun("/r", 1, {0: "lost"}))
    assert "1 of 1 shard is not done: shard 0 lost; resume" in words
    words = str(FailedItems("/r", 1, [3]))
    assert "/r: 1 item failed and was recorded, in shard 3; " in words
    assert "`--errors keep` to get it in its place, or compute it again" in words
    words = str(FailedItems("/r", 3, [3, 4], 1))
    assert "2 items failed and were recorded, 1 item was skipped, in shards 3, 4; " in words
    assert "to get them in their places, or compute them again" in words


@pytest.mark.parametrize(
    ("errors", "skipped", "words"),
    [
        (3, 1, ", 2 items failed, 1 skipped"),
        (1, 1, ", 1 item skipped"),
        (1, 0, ", 1 item failed"),
        (0, 0, ""),
        (2, None, ", 2 items failed or skipped"),  # of version 1, which does not tell
        (0, None, ""),
    ],
)
def test_an_end_tells_failed_items_from_skipped_ones(
    errors: int, skipped: int | None, words: str
) -> None:
    end = Finished(
        number=1, finisher=1, created=now(), by=this_process(), outcome="done", results="r.jsonl",
        records=5, n_shards=2, n_done=2, errors=errors, skipped=skipped,
    )  # fmt: skip
    assert in_words(end) == f"done: {counted(5 - errors, 'result')} in r.jsonl{words}"


def test_what_a_merge_leaves_out_has_no_place() -> None:
    words = str(FailedItems("/r", 2, [0], merges=True))
    assert "`--errors keep` to merge the others without them, or" in words
    assert "place" not in words
