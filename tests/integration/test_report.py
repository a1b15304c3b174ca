"""`espnet3 report` on runs that really ran, in every state that one may be looked at."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from espnet3 import Run
from tests.support.cli_project import Project
from tests.support.helpers import wait_for


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path, "local")


def words_of(file: Path) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", file.read_text()))


def seconds(words: str) -> float:
    number, unit = words.split()
    return float(number) * {"ms": 0.001, "s": 1.0}[unit]


def test_a_run_that_is_done(project: Project) -> None:
    project("submit", project.config)
    project.watch()
    root = project.folder / project.run_dir
    told = project.alone("report", project.run_dir)
    assert told.stdout.splitlines() == [f"report\t{root}.report.html"]
    text = words_of(Path(f"{root}.report.html"))
    assert "4 of 4 shards done" in text
    assert "12 of 12" in text
    assert "cli_decode:Runner" in text
    done = project("report", project.run_dir, "-o", "-")
    assert done.stdout == Path(f"{root}.report.html").read_text()
    assert Run(root).report(project.folder / "again.html") == str(project.folder / "again.html")
    assert (project.folder / "again.html").read_text() == done.stdout


def test_what_was_typed_and_how_fast_it_was_while_anybody_worked(project: Project) -> None:
    project("submit", project.config, "provider.params.failing=[4]", "config.hub_token=hf_S3cr3t")
    project.watch(code=1)
    records = project.folder / project.run_dir / "submissions/0001.json"
    assert "hf_S3cr3t" not in json.loads(records.read_text())["typed"]
    (project.folder / "mended").touch()
    time.sleep(4)  # in which nobody works
    project.alone("resume", project.run_dir, "--set", "n_workers=3")
    project.watch()
    project("report", project.run_dir, "-o", "r.html")
    page = (project.folder / "r.html").read_text()
    text = words_of(project.folder / "r.html")
    typed = f"{sys.executable} -P -m espnet3"
    first = f"{typed} submit 'conf dir/decode.yaml' 'provider.params.failing=[4]'"
    assert f"command {first} config.hub_token=***" in html.unescape(text)
    assert f"0002 {typed} resume 'a run/first' --set n_workers=3" in html.unescape(text)
    assert "hf_S3cr3t" not in page
    [at_work] = re.findall(r"items a second [\d.,]+ in the ([\d.]+ m?s) with workers", text)
    [whole] = re.findall(r"from first to last sign ([\d.]+ m?s)", text)
    assert seconds(whole) - seconds(at_work) >= 4


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run that is done, for those who change one of its receipts, or nothing."""
    project = Project(tmp_path_factory.mktemp("done"), "local")
    project("submit", project.config)
    project.watch()
    return project


ODD: dict[str, dict[str, Any]] = {
    "seconds-cpu": {"seconds": 1e308, "cpu": 1e308},
    "seconds": {"seconds": 1e12},
    "items": {"items": 10**400},
    "peak_memory": {"peak_memory": 10**400},
    "item_seconds": {"item_seconds": [[5, 10**30], [6, 1]]},
    "began": {"began": "0001-01-01T00:00:00Z"},
    "began-seconds": {"began": "9999-12-31T23:59:59Z", "seconds": 100},
}


@pytest.mark.parametrize("odd", ODD)
def test_figures_that_cannot_be_are_left_out(done: Project, odd: str) -> None:
    receipt = done.folder / done.run_dir / "receipts/000000.json"
    whole = receipt.read_text()
    record = json.loads(whole)
    record["usage"] |= ODD[odd]
    receipt.unlink()
    receipt.write_text(json.dumps(record))
    try:
        done("report", done.run_dir, "-o", "r.html")
    finally:
        receipt.write_text(whole)
    text = words_of(done.folder / "r.html")
    assert "what 1 of 4 attempts took is not known" in text


def test_whose_receipt_was_withdrawn_is_not_lost(project: Project) -> None:
    recording = "parallel.on_error=record"
    project("submit", project.config, recording, "provider.params.failing=[4,5]")
    project.watch(code=1)
    (project.folder / "mended").touch()
    project("resume", project.run_dir, "--items", "failed")
    project.watch()
    project("report", project.run_dir, "-o", "r.html")
    text = words_of(project.folder / "r.html")
    assert "4 of 4 shards done" in text
    assert re.search(r"\d lost", text) is None
    assert "took is not known" not in text


def test_a_run_that_failed(project: Project) -> None:
    project("submit", project.config, "provider.params.failing=[4,5]")
    project.watch(code=1)
    project("report", project.run_dir, "-o", "r.html")
    text = words_of(project.folder / "r.html")
    assert "2 of 4 shards done, 2 failed" in text or "3 of 4 shards done, 1 failed" in text
    assert "ValueError: item 4 is bad" in text
    assert "raise ValueError(f&#34;item {idx} is bad&#34;)" in text


def test_a_run_that_still_runs(project: Project) -> None:
    project("submit", project.config, "provider.params.gated=[11]")
    run = Run(project.folder / project.run_dir)
    counts = {"done": 3, "running": 1}
    wait_for(lambda: run.status().counts() == counts, "one shard waits at its gate")
    project("report", project.run_dir, "-o", "r.html")
    text = words_of(project.folder / "r.html")
    assert "3 of 4 shards done, 1 running; it still runs." in text
    assert "at a shard that runs" in text
    (project.folder / "open").touch()
    project.watch()


def test_without_the_extra_one_line_says_so(done: Project) -> None:
    code = (
        "import sys; sys.modules['matplotlib'] = None; sys.argv[0] = 'espnet3'; "
        "from espnet3.cli import main; main()"
    )
    words = [sys.executable, "-c", code, "report", done.run_dir]
    ended = subprocess.run(words, cwd=done.folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr == (
        "espnet3: report: matplotlib is not installed; pip install 'espnet3[report]'\n"
    )
