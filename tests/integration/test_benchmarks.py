"""`python -m benchmarks` works. Nothing is timed here: its figures are for a quiet machine."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.helpers import python

ROOT = Path(__file__).resolve().parents[2]
CHEAP = (
    "worker-start",
    "further-shard",
    "million-items",
    "collect-file",
    "collect-list",
    "collect-parquet",
    "write-record",
)

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the benchmarks are in the repository only"
)


def test_the_cheap_rows_give_figures(tmp_path: Path) -> None:
    output = tmp_path / "results.md"
    only = [word for name in CHEAP for word in ("--only", name)]
    work = ["--folder", str(tmp_path), "--output", str(output), "--peers", "/none"]
    done = python("-m", "benchmarks", "--quick", *only, *work, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    text = output.read_text()
    for name in CHEAP:
        assert re.search(rf"^\| {name} \| [^|]+ \| [0-9].*\|$", text, re.MULTILINE), text
    assert "left out" not in text
    assert f"Python {sys.version.split()[0]}" in text


def test_a_row_whose_peer_is_not_there_says_so(tmp_path: Path) -> None:
    work = ["--folder", str(tmp_path), "--peers", "/none"]
    done = python("-m", "benchmarks", "--quick", "--only", "worker-start", *work, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "python -c pass" in done.stdout
    assert "MISSED" not in done.stdout
