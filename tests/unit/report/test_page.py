"""The page as text: what stands in it, what does not, and how large it can become."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError, UsageError
from espnet3.report import render, report
from tests.support.reported_runs import HOSTILE, ITEMS, T0, Records, failed

SECRET = "hf_S3cr3tS3cr3t"


class Parsed(HTMLParser):
    """The elements of a page, with the checks that every page has to stand."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "href", "xlink:href", "action", "srcset", "data"):
                self.links.append(value or "")


async def parsed(run_dir: Path) -> tuple[str, Parsed]:
    """A page, which needs nothing from elsewhere and has no name twice."""
    text = (await render(run_dir)).decode()
    found = Parsed(text)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {*found.tags}
    assert all(link.startswith("#") for link in found.links), found.links
    assert len(found.ids) == len({*found.ids})
    assert {link[1:] for link in found.links} <= {*found.ids}
    assert not re.search(r"url\((?!#)|@import", text)
    assert SECRET not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    return text, found


def words_of(text: str) -> str:
    """What a reader sees."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


async def test_a_run_that_went_well(tmp_path: Path) -> None:
    Records(tmp_path / "run", 120, 12).all_done()
    text, found = await parsed(tmp_path / "run")
    assert found.tags.count("svg") == 6
    assert found.tags.count("figure") == 6
    for words in (
        "120 of 120 shards done", "What 12 workers did", "How long 3,000 items took",
        "How long 120 shards took", "The memory that 120 attempts needed", "and 16 GB asked for",
        "core hours went for", "espnet3 submit CONFIG.yaml parallel.options.memory=6500MB",
        "Nothing failed.", "--hub-token ***", "GPUs were busy", "2026-03-04 08:01",
    ):  # fmt: skip
        assert words in words_of(text), words
    assert re.search(r"<text[^>]*>workers?</text>", text)  # text of figures is text


async def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 40, 4)
    run.all_done(range(30, 40))
    for rank in range(30, 40):
        run.event("failed", rank, 500, **failed("ValueError", f"item {rank}"))
    assert await render(tmp_path / "run") == await render(tmp_path / "run")


async def test_many_workers_are_counted_and_the_page_stays_small(tmp_path: Path) -> None:
    Records(tmp_path / "run", 600, 300).all_done()
    text, _ = await parsed(tmp_path / "run")
    assert "More than 100 workers" in text
    assert len(text) < 200_000


async def test_texts_of_strangers_are_shown_and_obeyed_by_nobody(tmp_path: Path) -> None:
    text = HOSTILE.encode("utf-8", "backslashreplace").decode()
    run = Records(tmp_path / "run", 30, 3, git_commit=text)
    run.all_done(range(5, 30))
    for rank in range(5, 30):
        trace = 40_000 * "<&>" + text
        run.event("failed", rank, 100, host=text, item={text: text},
                  **failed(f"Odd{chr(65 + rank)}", text, trace))  # fmt: skip
    page, _ = await parsed(tmp_path / "run")
    assert "&lt;script&gt;fetch(" in page
    assert "{{ 7 * 7 }}" in page
    assert "\\x1b[31m" in page
    assert "שלום" in page
    assert "And 5 other exceptions." in page
    assert len(page) < 1_000_000


async def test_what_failed_has_its_line_its_group_and_its_cause(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 20, 2)
    run.all_done(range(15, 20))
    for rank in range(15, 20):
        usage = run.usage(300, 40, items=3, forward=30, cpu=20)
        run.event("failed", rank, 340, usage=usage, items_done=3, item=rank,
                  **failed("ValueError", f"no audio in item {rank}"))  # fmt: skip
    text = words_of((await parsed(tmp_path / "run"))[0])
    assert "15 of 20 shards done, 5 failed" in text
    assert "ValueError: no audio in item 15" in text
    assert "5 times; shards 15-19" in text
    assert "the first one with item 15" in text
    assert "failed error 5 15-19" in text
    assert f"espnet3 resume {tmp_path}/run --set memory=6500MB" in text


async def test_items_that_were_recorded_as_failed(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 2, 1, on_error="record")
    run.done(0, run.usage(1, 5))
    attempt = run.attempt(1)
    lines = b'{"item":7,"error":{"type":"ValueError","message":"bad","traceback":"T r a c e"}}\n'
    lines += b'{"item":8,"result":{"error":"no"}}\n'
    (tmp_path / "run/results" / f"000001.{attempt}.0.jsonl").write_bytes(lines)
    run.done(1, run.usage(1, 5), attempt, errors=1)
    text = words_of((await parsed(tmp_path / "run"))[0])
    assert f"2 of 2 shards done, 1 of {2 * ITEMS} items failed" in text
    assert "1 time, 1 recorded as a result; shard 1" in text
    assert "T r a c e" in text


async def test_records_without_usage_give_what_is_known(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 6, 2)
    for rank in range(6):
        attempt = run.attempt(rank)
        run.event("started", rank, 10.0 * rank, attempt=attempt, schema_version=2)
        run.done(rank, None, attempt, created=run_time(20.0 + 10 * rank))
    text, found = await parsed(tmp_path / "run")
    words = words_of(text)
    assert "6 of 6 shards done" in words
    assert "What 2 workers did" in words
    assert "How long 6 shards took" in words
    assert "No record says how much memory was needed." in words
    assert "what 6 of 6 attempts took is not known" in words
    assert found.tags.count("svg") == 4


def run_time(seconds: float) -> Any:
    return T0 + timedelta(seconds=seconds)


async def test_claims_say_who_was_at_a_shard(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 4, 2, schedule="dynamic")
    workers = {task: f"0001-{task or 0:012x}" for task in (0, 1, None)}
    for rank, task in enumerate((0, 1, None)):
        attempt = run.attempt(rank)
        run.claim(rank, workers[task], task, attempt, 10)
        run.done(rank, run.usage(10, 50), attempt)
        run.sign(workers[task], task, 5, 80, ended=True)
    text = words_of((await parsed(tmp_path / "run"))[0])
    assert "What 3 workers did" in text
    assert "0001/joined-000000" in text
    assert "1 min 15 s" in text  # by its signs


async def test_a_run_that_has_only_just_begun(tmp_path: Path) -> None:
    Records(tmp_path / "run", 4, 2)
    text, found = await parsed(tmp_path / "run")
    assert "No record says yet when anything ran." in text
    assert "svg" not in found.tags


async def test_receipts_and_records_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    run = Records(tmp_path / "run", 4, 2)
    run.all_done()
    (tmp_path / "run/receipts/000001.json").write_text("{")
    (tmp_path / "run/attempts" / f"000001.{run.attempt(1)}.failed.json").write_text("[]")
    text, _ = await parsed(tmp_path / "run")
    assert "1 receipt cannot be read" in text
    assert "1 record of attempts cannot be read" in text


async def test_the_file_lies_beside_the_run(tmp_path: Path) -> None:
    Records(tmp_path / "run", 4, 2).all_done()
    assert await report(tmp_path / "run") == f"{tmp_path}/run.report.html"
    assert (tmp_path / "run.report.html").read_bytes() == await render(tmp_path / "run")
    assert await report(tmp_path / "run", tmp_path / "other") == f"{tmp_path}/other"


async def test_no_file_of_the_run_is_written_over(tmp_path: Path) -> None:
    Records(tmp_path / "run", 4, 2).all_done()
    with pytest.raises(UsageError, match="lies among the run's own files"):
        await report(tmp_path / "run", tmp_path / "run/run.json")
    with pytest.raises(RunDirectoryError):
        await report(tmp_path)


async def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        UsageError, match=r"matplotlib is not installed; pip install 'espnet3\[report\]'"
    ):
        await report(tmp_path / "run")
