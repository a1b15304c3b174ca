"""Each form of results holds what a list holds, whatever these are, or says why it cannot."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from espnet3.collect import collect, to_dataset, to_kaldi, to_pandas
from espnet3.collect.flat_lines import CHUNK
from espnet3.errors import DamagedResult, StoreError, UsageError
from espnet3.run import Run
from espnet3.run_dir.output_names import FORMS, TABLES, form_of
from espnet3.run_dir.verification import IN_MEMORY
from espnet3.specs.models import ErrorRecord
from tests.support.finished_runs import finished_run

BIG = 2**64 - 1


def deep(levels: int) -> Any:
    """A value within lists and dicts."""
    value: Any = 1
    for level in range(levels):
        value = {"a": value} if level % 2 else [value]
    return value


KINDS: dict[str, list[Any]] = {
    "whole numbers": [*range(50)],
    "numbers": [0, 0.5, -1.25e-300, 1e300, -0.0, 3],
    "large": [BIG, 0, 2**63],
    "large and negative": [BIG, -1, 2**53 + 1],
    "large and fractions": [0.5, 2**53 + 1, 7],
    "booleans": [True, False, None],
    "texts": ["a", "", "Grüße „“\u2028", 'quo"te', "back\\slash", "two\nlines\r\ttab", "null", "1"],
    "formulas": ["=1+1", "+1", "-1", "@SUM(1)", "=cmd|'/c x'!A1"],
    "nul": ["a\0b", "\0", "\x1b]0;title\x07"],
    "dates": ["2020-01-01", "2020-01-01 00:00:00", "12:00"],
    "mixed": [1, "1", None, True, [1], {"a": 1}, 1.5],
    "flags and numbers": [{"a": True}, {"a": 1}, {"a": 0}],
    "nothing": [None, None, None, None],
    "empty": [{}, {}, {"a": {}}, {"a": {"b": []}}],
    "fields": [{"text": f"t{i}", "score": i / 8, "n": i, "ok": i % 2 == 0} for i in range(50)],
    "other order": [{"a": 1, "b": 2, "c": 3}, {"a": 1, "c": 3, "b": 2}, {"c": 0, "a": 5, "b": 6}],
    "some fields": [{"a": 1}, {"b": "x"}, {"a": None, "c": [1, 2]}, {}, None, {"a": 2.5}],
    "nested": [
        {"best": [{"text": "a b", "score": -1.5}, {"text": "c"}], "times": [[0, 1], [1, 2.5]]},
        {"best": [], "times": None, "more": {"deep": {"er": [None, {"x": 1}]}}},
        {"best": [{"text": "d", "n": 3}], "times": [[]], "more": {"deep": None}},
    ],
    "own names": [{"item": 7, "result": "r", "error": None, "result.item": 1, "": 2}],
    "odd names": [{'a"b': 1, "c,d": 2, "e\nf": "x", "g.h": [1], "\u202e": 3}],
    "deep": [deep(3), deep(60), deep(240)],
    "maps": [{"counts": {f"word{i}-{j}": j for j in range(90)}} for i in range(5)],
}


def read_jsonl(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def read_zst(data: bytes) -> bytes:
    return bytes(pa.CompressedInputStream(pa.BufferReader(data), "zstd").read())


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, strict=True))


def read_arrow(file: Path) -> Any:
    with pa.OSFile(str(file)) as source:
        return pa.ipc.open_file(source).read_all()


def rows(results: list[Any]) -> list[dict[str, Any]]:
    """What a table is to hold; decision 0024 in a few lines."""
    own = ("item", "result", "error")
    found = []
    for item, result in enumerate(results):
        row = {"item": item}
        if isinstance(result, dict):
            for name, value in result.items():
                renamed = name in own or name.startswith("result.")
                row[f"result.{name}" if renamed else name] = value
        elif result is not None:
            row["result"] = result
        found.append(row)
    return found


def bare(value: Any) -> Any:
    """A value without what is null in dicts: a struct has all of its fields."""
    if isinstance(value, dict):
        return {k: bare(v) for k, v in value.items() if v is not None}
    return [bare(v) for v in value] if isinstance(value, list) else value


def typed(value: Any) -> Any:
    """True is no 1, whatever Python says; 1 and 1.0 are the same number."""
    if isinstance(value, dict):
        return {k: typed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [typed(v) for v in value]
    return (isinstance(value, bool), value)


def check_table(table: Any, results: list[Any]) -> None:
    """Each column holds its values, or each of them as JSON where they have no common type."""
    expected = rows(results)
    names = list(dict.fromkeys(["item", *(name for row in expected for name in row)]))
    assert table.column_names == names
    assert table.num_rows == len(results)
    for name in names:
        wanted = [row.get(name) for row in expected]
        found = table.column(name).to_pylist()
        if typed(bare(found)) != typed(bare(wanted)):
            assert not all(type(v) is int and 0 <= v < 2**64 for v in wanted)
            assert pa.types.is_string(table.schema.field(name).type), name
            assert [None if v is None else json.loads(v) for v in found] == wanted, name
            assert not all(isinstance(v, str | None) for v in wanted)


def check_file(file: Path, results: list[Any]) -> None:
    """A file, by the end of its name, holds the results."""
    form, data = form_of(file.name), file.read_bytes()
    unpack: dict[str, Callable[[bytes], bytes]] = {
        ".jsonl": bytes, ".jsonl.gz": gzip.decompress, ".jsonl.zst": read_zst,
    }  # fmt: skip
    if form in unpack:
        lines = read_jsonl(unpack[form](data))
        assert lines == [{"item": i, "result": result} for i, result in enumerate(results)]
    elif form == ".csv":
        expected = rows(results)
        names = list(dict.fromkeys(["item", *(name for row in expected for name in row)]))
        found = read_csv(file)
        assert len(found) == len(results)
        assert data.decode().splitlines()[:1] or not results
        for row, wanted in zip(found, expected, strict=True):
            assert list(row) == names
            for name in names:
                value = wanted.get(name)
                if isinstance(value, str) or value is None:
                    assert row[name] == (value or "")
                else:
                    assert typed(json.loads(row[name])) == typed(value)
    else:
        table = pq.read_table(file) if form == ".parquet" else read_arrow(file)
        table.validate(full=True)
        check_table(table, results)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
async def test_each_form_holds_what_the_list_holds(tmp_path: Path, form: str, kind: str) -> None:
    run = finished_run(tmp_path, KINDS[kind])
    assert await collect(run) == KINDS[kind]
    file = tmp_path / "new" / "folders" / f"x{form.upper()}"
    found = await collect(run, file)
    assert (found.output, found.records) == (str(file), len(KINDS[kind]))
    check_file(file, KINDS[kind])
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("form", sorted(TABLES))
async def test_types_and_fields_that_come_late(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is begun anew with them: what came before gets the same columns."""
    monkeypatch.setattr("espnet3.collect.rows.PIECE", 1)
    plain = [{"a": i, "text": f"t{i}"} for i in range(30)]
    late = [{"a": 0.5}, {"a": 2**53 + 1}, {"new": [1]}, {"new": ["x"]}, "none of a dict", {"a": -1}]
    results = [*plain, *late, *plain]
    file = tmp_path / f"x{form}"
    file.write_text("what was there before")
    await collect(finished_run(tmp_path, results, n_shards=40), file)
    check_file(file, results)
    assert sorted(os.listdir(tmp_path)) == ["run", file.name]


@pytest.mark.parametrize("form", FORMS)
async def test_no_result_is_a_file_without_rows(tmp_path: Path, form: str) -> None:
    run, file = finished_run(tmp_path, [1, 2], done=[]), tmp_path / f"x{form}"
    with pytest.warns(match="items are left out"):
        found = await collect(run, file, partial=True, patience=0)
    assert found.records == 0
    check_file(file, [])
    if form == ".csv":
        assert file.read_text() == "item\n"


@pytest.mark.parametrize("form", sorted(TABLES))
async def test_items_of_any_kind_and_errors(tmp_path: Path, form: str) -> None:
    error = ErrorRecord(type="ValueError", message="no\nword", traceback="at …")
    items = ["utt1", "utt2", "utt3"]
    run = finished_run(tmp_path, [{"t": "a"}, None, {"t": "c"}], items=items, errors={1: error})
    file = tmp_path / f"x{form}"
    found = await collect(run, file, errors="keep")
    assert found.errors == 1
    if form == ".csv":
        kept = read_csv(file)
        kept[1]["error"] = json.loads(kept[1]["error"])
        empty: Any = ""
    else:
        kept = (pq.read_table(file) if form == ".parquet" else read_arrow(file)).to_pylist()
        empty = None
    assert kept == [
        {"item": "utt1", "t": "a", "error": empty},
        {"item": "utt2", "t": empty, "error": error.model_dump()},
        {"item": "utt3", "t": "c", "error": empty},
    ]


@pytest.mark.parametrize("form", [*FORMS, "kaldi"])
@pytest.mark.parametrize("large", [False, True])
def test_a_damaged_run_writes_nothing(tmp_path: Path, form: str, large: bool) -> None:
    """Also where the damage is met when other results have been written."""
    size = IN_MEMORY // 2 if large else 10
    run = finished_run(tmp_path, ["x" * size] * 6, n_shards=2)
    [file] = Path(run, "results").glob("000001.*")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DamagedResult):
        if form == "kaldi":
            Run(run).to_kaldi(tmp_path / "new" / "x", "item", patience=0)
        else:
            Run(run).collect(tmp_path / "new" / f"x{form}", patience=0)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", [*sorted(TABLES), ".jsonl.gz", ".jsonl.zst"])
def test_a_disk_that_is_full_is_an_error_of_one_line(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = finished_run(tmp_path, ["".join(map(chr, range(i, i + 3000))) for i in range(48, 300)])
    limited = (
        "import asyncio, resource, sys, signal\n"
        "import pyarrow.parquet, pyarrow.json, pyarrow.csv\n"
        "from espnet3.collect import collect\n"
        "from espnet3.errors import StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try:\n    asyncio.run(collect(*sys.argv[1:]))\n"
        "except StoreError as error:\n    print(error)\n"
    )
    file = tmp_path / f"x{form}"
    words = [sys.executable, "-c", limited, run, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == (f"{file}: File too large\n", "")
    assert sorted(os.listdir(tmp_path)) == ["run"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.txt", "x.gz", "x.tar.gz", "x.PQ", "v1.2", "x.csv.zst", "x."])
async def test_a_suffix_of_no_form_is_refused_before_anything_is_read(
    tmp_path: Path, name: str
) -> None:
    suffix = os.path.splitext(name)[1].lower()
    for output in (name, f"memory://{name}", str(tmp_path / "new" / name)):
        with pytest.raises(UsageError) as refused:
            await collect(tmp_path / "no run", output)
        assert str(refused.value) == (
            f"{output}: {suffix} is no form that results are written in; choose a name that ends "
            "in .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet or .arrow"
        )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("form", sorted(TABLES))
async def test_pickles_are_not_made_a_table_of(tmp_path: Path, form: str) -> None:
    run = finished_run(tmp_path, [{1, 2}], pickled=True)
    with pytest.raises(UsageError, match=r"the results are pickled, which no table holds"):
        await collect(run, tmp_path / f"x{form}", trust="owner")
    for call in (to_pandas(run), to_dataset(run), to_kaldi(run, tmp_path / "k", "item")):
        with pytest.raises(UsageError, match=r"the results are pickled"):
            await call
    assert sorted(os.listdir(tmp_path)) == ["run"]


@pytest.mark.parametrize("form", sorted(TABLES))
async def test_too_many_fields_are_no_table(tmp_path: Path, form: str) -> None:
    results = [{f"f{i}-{j}": j for j in range(100)} for i in range(20)]
    with pytest.raises(UsageError, match=r"more than 1000 different fields, such as 'f1"):
        await collect(finished_run(tmp_path, results), tmp_path / f"x{form}")
    assert sorted(os.listdir(tmp_path)) == ["run"]


@pytest.mark.parametrize("form", sorted(TABLES))
async def test_a_pipe_takes_json_lines_only(tmp_path: Path, form: str) -> None:
    os.mkfifo(tmp_path / f"x{form}")
    with pytest.raises(UsageError, match="is a device or pipe, which takes JSON lines"):
        await collect(finished_run(tmp_path, [1]), tmp_path / f"x{form}")


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    """Before anything is read: there is no run."""
    program = (
        "import asyncio, sys\n"
        "sys.modules.update(dict.fromkeys(['pyarrow', 'pandas', 'datasets']))\n"
        "from espnet3 import AsyncRun\n"
        "from espnet3.errors import UsageError\n"
        "async def main(run):\n"
        "    calls = [run.collect(f'x{form}') for form in ('.parquet', '.arrow', '.jsonl.zst')]\n"
        "    for call in (*calls, run.to_pandas(), run.to_dataset()):\n"
        "        try:\n"
        "            await call\n"
        "        except UsageError as error:\n"
        "            print(error)\n"
        "asyncio.run(main(AsyncRun('no run')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    missing = "which is not installed here; pip install"
    assert done.stdout.splitlines() == [
        f"x.parquet: needs pyarrow, {missing} 'espnet3[parquet]'",
        f"x.arrow: needs pyarrow, {missing} 'espnet3[parquet]'",
        f"x.jsonl.zst: needs pyarrow, {missing} 'espnet3[parquet]'",
        f"to_pandas: needs pandas, {missing} 'espnet3[pandas]'",
        f"to_dataset: needs datasets, {missing} 'espnet3[datasets]'",
    ]


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    run = finished_run(tmp_path, [1])
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/new/x\.csv: Not a directory$"):
        await collect(run, tmp_path / "file" / "new" / "x.csv")


# --- in memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
async def test_a_frame_holds_what_the_list_holds(tmp_path: Path, kind: str) -> None:
    run = finished_run(tmp_path, KINDS[kind])
    frame = await to_pandas(run)
    expected = rows(KINDS[kind])
    assert next(iter(frame.columns)) == "item"
    assert frame["item"].tolist() == [*range(len(expected))]
    for name in frame.columns:
        values = [row.get(name) for row in expected]
        if all(type(value) is str or (type(value) is int and value >= 0) for value in values):
            assert frame[name].tolist() == values


async def test_whole_numbers_of_a_frame_stay_exact_beside_a_missing_one(tmp_path: Path) -> None:
    frame = await to_pandas(finished_run(tmp_path, [{"n": 2**62 + 1}, {}, {"n": 3}]))
    assert frame["n"].tolist() == [2**62 + 1, None, 3]


@pytest.mark.parametrize("kind", KINDS)
async def test_hugging_face_reads_the_parquet_and_has_the_same_in_memory(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    run, file = finished_run(tmp_path, KINDS[kind]), tmp_path / "x.parquet"
    await collect(run, file)
    read = datasets.Dataset.from_parquet(str(file), cache_dir=str(tmp_path / "cache"))
    held = await to_dataset(run)
    assert read.column_names == held.column_names
    check_table(held.data.table, KINDS[kind])
    assert [*read] == [*held]


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [".parquet", ".arrow"])
async def test_a_table_is_made_in_constant_memory(tmp_path: Path, form: str) -> None:
    """Of 200 MB, and another type at the end, so that it is begun anew."""
    line = {"text": "x" * 2_000_000, "n": 1}
    run = finished_run(tmp_path, [*[line] * 100, {"n": 0.5}], n_shards=25)
    pool = pa.proxy_memory_pool(pa.system_memory_pool())
    usual = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        await collect(run, tmp_path / f"x{form}")
    finally:
        pa.set_memory_pool(usual)
    assert pool.max_memory() < 110e6
    assert CHUNK < 2_000_000  # each line is longer than what is parsed at once
