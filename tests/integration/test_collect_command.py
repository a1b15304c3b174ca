"""`espnet3 collect`: to a file in each form, to files for Kaldi, and to standard output."""

from __future__ import annotations

import csv
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from espnet3.errors import UsageError
from espnet3.run import Run
from tests.support.cli_project import Project


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose run is done."""
    return Project.finished(tmp_path_factory.mktemp("collect"))


# --- a file ---------------------------------------------------------------------------------------


def test_the_form_is_what_the_name_says(done: Project) -> None:
    done("collect", done.run_dir, "-o", "new/folder/x.parquet")
    table = pyarrow.parquet.read_table(done.folder / "new/folder/x.parquet")
    assert table.to_pylist() == [{"item": i, "scaled": 3 * i} for i in range(12)]
    done.here("collect", done.run_dir, "-o", "x.csv")
    with (done.folder / "x.csv").open(newline="") as file:
        assert [*csv.reader(file)] == [
            ["item", "scaled"],
            *([f"{i}", f"{3 * i}"] for i in range(12)),
        ]
    told = done.json("collect", done.run_dir, "-o", "x.jsonl.gz")
    nothing: dict[str, Any] = {"left_out": {}, "errors": 0, "missing": [], "skipped": 0}
    assert told == {"output": "x.jsonl.gz", "records": 12, **nothing}
    assert done.shell("gzip -dc x.jsonl.gz").stdout == done("collect", done.run_dir).stdout


@pytest.mark.parametrize("name", ["x.txt", "x.json", "x.GZ", "x.tar", "x.pkl", "x.xlsx", "v1.2"])
def test_a_suffix_of_no_form_is_refused_with_the_list(done: Project, name: str) -> None:
    for output in (name, f"memory://{name}", str(done.folder / "other" / name)):
        found = done.here("collect", done.run_dir, "-o", output, code=2)
        assert found.err == (
            f"espnet3: {output}: {Path(name).suffix.lower()} is no form that results are written "
            "in; choose a name that ends in .jsonl, .jsonl.gz, .jsonl.zst, .csv, .parquet or "
            ".arrow\n"
        )
    assert not (done.folder / name).exists()
    assert not (done.folder / "other").exists()


def test_a_name_without_a_suffix_is_one_of_json_lines(done: Project) -> None:
    done.here("collect", done.run_dir, "-o", "hyp")
    assert (done.folder / "hyp").read_text() == done("collect", done.run_dir).stdout


# --- standard output ------------------------------------------------------------------------------


def test_a_hyphen_is_standard_output(done: Project) -> None:
    found = done("collect", done.run_dir, "-o", "-")
    assert [json.loads(line) for line in found.stdout.splitlines()] == done.expected()
    assert found.stderr == ""
    assert not (done.folder / "-").exists()
    done("collect", done.run_dir, "-o", "./-")
    assert (done.folder / "-").read_text() == found.stdout
    with pytest.raises(UsageError, match="output: is -; only `espnet3 collect` knows"):
        Run(done.folder / done.run_dir).collect("-")
    refused = done("collect", done.run_dir, "-o", "-", "--json", code=2)
    assert "--json describes the file of -o" in refused.stderr
    assert refused.stdout == ""


def test_a_reader_that_goes_away_is_no_error(done: Project) -> None:
    """More than the pipe holds, so that the write fails."""
    many = f"espnet3 submit {shlex.quote(done.config)} items.n=20000 run_dir=many >&2"
    assert done.shell(f"{many} && espnet3 watch many >&2").returncode == 0
    found = done.shell("set -o pipefail; espnet3 collect many -o - | head -n 1")
    assert json.loads(found.stdout) == {"item": 0, "result": {"scaled": 0}}
    assert found.stderr == ""
    assert found.returncode == 1  # it is not complete, as `pipefail` says


# --- files for Kaldi ------------------------------------------------------------------------------


def test_files_for_kaldi(done: Project) -> None:
    lines = done.lines("collect", done.run_dir, "--to", "kaldi", "exp/new", "--key", "item")
    assert lines == ["output\texp/new", "records\t12"]
    assert os.listdir(done.folder / "exp/new") == ["scaled"]
    text = (done.folder / "exp/new/scaled").read_text()
    assert text.splitlines() == [f"{i} {3 * i}" for i in sorted(range(12), key=str)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "kaldi", "x"], "--to kaldi DIR and --key FIELD need each other"),
        (["--key", "id"], "--to kaldi DIR and --key FIELD need each other"),
        (["--to", "kaldi", "x", "--key", "i", "-o", "x.csv"], "-o names one file, and --to a"),
        (["--to", "espnet", "x", "--key", "i"], "'espnet' is not 'kaldi'"),
        (
            ["--to", "kaldi", "x", "--key", "id"],
            "item 0: has no field 'id' for the key, but 'item'",
        ),
    ],
)
def test_words_that_do_not_go_together(done: Project, words: list[str], said: str) -> None:
    found = done.here("collect", done.run_dir, *words, code=2)
    assert said in found.err
    assert found.out == ""
    assert not (done.folder / "x").exists()
