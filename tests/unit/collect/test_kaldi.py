"""Files as Kaldi and ESPnet read them: a line for each item, sorted as `LC_ALL=C sort` does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from espnet3.collect import kaldi, to_kaldi
from espnet3.errors import FailedItems, StoreError, UsageError
from espnet3.run import Run
from espnet3.specs.models import ErrorRecord
from tests.support.finished_runs import finished_run


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split("\n")


@pytest.mark.parametrize(("held", "parts"), [(1 << 26, 200), (100, 200), (1, 200), (1, 5)])
def test_each_field_is_a_sorted_file(
    tmp_path: Path, held: int, parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where little is held in memory, so that parts on disk are merged."""
    monkeypatch.setattr(kaldi, "_HELD", held)
    monkeypatch.setattr(kaldi, "_MOST_PARTS", parts)
    keys = ["b", "a-b", "a", "ab", "B", "ä", "\U0001f600", "\uffee", "a_b", "10", "9", "a.b"]
    results = [
        {"id": key, "text": f"{key} said „so“\u2028 ", "score": i / 4, "n": i, "best": ["x", i]}
        for i, key in enumerate(keys)
    ]
    del results[3]["text"]
    results[4]["text"] = None
    results[5]["text"] = ""
    found = Run(finished_run(tmp_path, results)).to_kaldi(tmp_path / "new" / "exp", "id")
    folder = tmp_path / "new" / "exp"
    assert (found.output, found.records) == (str(folder), 12)
    assert sorted(os.listdir(folder)) == ["best", "n", "score", "text"]
    for name in os.listdir(folder):
        subprocess.run(["sort", "-c", folder / name], env={"LC_ALL": "C"}, check=True)
    expected = {r["id"]: r["text"] for r in results if r.get("text") is not None}
    assert lines(folder / "text").pop() == ""
    read = dict(line.split(" ", 1) for line in lines(folder / "text")[:-1])
    assert read == expected
    assert "10 2.25" in lines(folder / "score")
    assert '10 ["x",9]' in lines(folder / "best")


async def test_the_items_may_be_the_keys_and_failed_ones_have_no_line(tmp_path: Path) -> None:
    error = ErrorRecord(type="E", message="m")
    run = finished_run(tmp_path, ["x", "y", "z"], items=["u3", "u2", "u1"], errors={1: error})
    with pytest.raises(FailedItems):
        await to_kaldi(run, tmp_path / "k", "item")
    found = await to_kaldi(run, tmp_path / "k", "item", errors="keep")
    assert found.errors == 1
    assert lines(tmp_path / "k" / "result") == ["u1 z", "u3 x", ""]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([{"id": "a", "text": "two\nlines"}], r"item 0: field 'text' has '\n' in it"),
        ([{"id": "b", "t": ""}, {"id": "a", "t": "a\tb"}], r"item 1: field 't' has '\t' in it"),
        ([{"id": "a", "t": "nul\0"}], r"item 0: field 't' has '\x00' in it"),
        ([{"id": "a"}, {"id": "b"}, {"id": "a"}], "a: is the key of more than one item"),
        ([{"id": "a", "s": 1}, {"id": "a", "t": 1}], "a: is the key of more than one item"),
        ([{"id": 1}, {"id": "1"}], "1: is the key of more than one item"),
        ([{"text": "a"}], "item 0: has no field 'id' for the key, but 'item', 'text'; name"),
        (["a"], "item 0: has no field 'id' for the key, but 'item', 'result'; name"),
        ([{"id": "a b", "t": 1}], "item 0: field 'id' is 'a b', and a key is a text without"),
        ([{"id": "a\u3000b", "t": 1}], r"item 0: field 'id' is 'a\u3000b', and a key is"),
        ([{"id": "", "t": 1}], "item 0: field 'id' is '', and a key is"),
        ([{"id": None, "t": 1}], "item 0: field 'id' is None, and a key is"),
        ([{"id": True, "t": 1}], "item 0: field 'id' is True, and a key is"),
        ([{"id": "a", "../t": 1}], "item 0: the field '../t' cannot be the name of a file"),
        ([{"id": "a", "..": 1}], "item 0: the field '..' cannot be the name of a file"),
        ([{"id": "a", "": 1}], "item 0: the field '' cannot be the name of a file"),
        ([{"id": "a", "t" * 300: 1}], "cannot be the name of a file"),
        ([{"id": i, f"t{i}": 1} for i in range(300)], "is the first with more than 200 fields"),
    ],
)
async def test_what_no_file_holds_is_refused_with_its_item(
    tmp_path: Path, results: list[Any], words: str
) -> None:
    run = finished_run(tmp_path, results)
    with pytest.raises(UsageError) as refused:
        await to_kaldi(run, tmp_path / "new" / "k", "id")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["run"]


async def test_the_files_of_the_run_itself_are_safe(tmp_path: Path) -> None:
    run = finished_run(tmp_path, [{"id": "a", "run.json": 1, "text": "x"}])
    for folder in (f"{run}/results", f"{run}/shards/new", run):
        with pytest.raises(UsageError, match="lies among the run's own files"):
            await to_kaldi(run, folder, "id")
    assert "text" not in os.listdir(run)
    with pytest.raises(UsageError, match="folder: is empty"):
        await to_kaldi(run, "", "id")


async def test_one_file_that_cannot_be_written_leaves_all_as_they_were(tmp_path: Path) -> None:
    run = finished_run(tmp_path, [{"id": "a", "score": 1, "text": "x"}])
    (tmp_path / "k" / "text").mkdir(parents=True)
    (tmp_path / "k" / "score").write_text("as before")
    with pytest.raises(StoreError, match=r"k/text: Is a directory"):
        await to_kaldi(run, tmp_path / "k", "id")
    assert sorted(os.listdir(tmp_path / "k")) == ["score", "text"]
    assert (tmp_path / "k" / "score").read_text() == "as before"


async def test_a_folder_for_sorting_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kaldi, "_HELD", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nothing"))
    with pytest.raises(StoreError, match="No such file or directory, while sorting; set TMPDIR"):
        await to_kaldi(finished_run(tmp_path, [{"id": "a", "t": 1}]), tmp_path / "k", "id")
