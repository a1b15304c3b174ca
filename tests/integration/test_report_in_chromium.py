"""Reports in a real browser: nothing is fetched or overflows, axe-core finds no grave fault.

With ESPNET3_SCREENSHOTS=FOLDER what was seen is kept there, for people to look at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from espnet3 import Run
from tests.support.chromium import browser, faults
from tests.support.reported_runs import HOSTILE, Records, failed

pytestmark = [pytest.mark.server, pytest.mark.slow]
SHARDS = 10_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as started:
        yield started


def small(folder: Path) -> None:
    Records(folder, 120, 24).all_done()


def large(folder: Path) -> None:
    Records(folder, SHARDS, 400).all_done()


def bad(folder: Path) -> None:
    run = Records(folder, 60, 12)
    run.all_done(range(40, 60))
    for rank in range(40, 60):
        at = 700.0 + rank
        usage = run.usage(at, 30, items=2, forward=20, cpu=10)
        if rank % 3:
            run.event("failed", rank, at + 30, usage=usage, items_done=2, item=rank,
                      **failed("ValueError", f"no audio in item {rank}"))  # fmt: skip
        else:
            run.event("interrupted", rank, at + 30, usage=usage, items_done=2,
                      cause="signal SIGTERM")  # fmt: skip


def hostile(folder: Path) -> None:
    text = HOSTILE.encode("utf-8", "backslashreplace").decode()
    run = Records(folder, 30, 3, git_commit=text, working_directory=text)
    run.all_done(range(10, 30))
    for rank in range(10, 30):
        run.event("failed", rank, 100, host=text, item={text: text},
                  **failed(f"Odd{chr(65 + rank)}", text, 2000 * (text + "\n")))  # fmt: skip


def begun(folder: Path) -> None:
    run = Records(folder, 12, 4, schedule="dynamic")
    for task in range(3):
        worker, attempt = f"0001-{task:012x}", run.attempt(task)
        run.claim(task, worker, task, attempt, 30.0)
        run.done(task, run.usage(30, 60.0 + task), attempt)
        run.claim(task + 3, worker, task, run.attempt(task + 3), 100.0)
        run.sign(worker, task, 5, 170.0, rank=task + 3, position=2, end=25)


WHATS: dict[str, Any] = {
    "small": small, "large": large, "bad": bad, "hostile": hostile, "begun": begun,
}  # fmt: skip


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name -> the report of such a run."""
    found = {}
    for name, make in WHATS.items():
        folder = tmp_path_factory.mktemp(name) / name
        make(folder)
        before = time.monotonic()
        found[name] = Path(Run(folder).report())
        seconds, n_bytes = time.monotonic() - before, found[name].stat().st_size
        print(f"report of {name}: {n_bytes:,} bytes in {seconds:.1f} s")
        assert n_bytes < 1_000_000
    return found


def look(page: Page, name: str) -> None:
    """Keep a picture of the whole page, where somebody asks for it."""
    folder = os.environ.get("ESPNET3_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def open_page(chromium: Browser, file: Path, **how: Any) -> Page:
    """A page in a browser that fails the test where anything else is asked for."""
    page = chromium.new_context(**how).new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(file.as_uri(), wait_until="load")
    page.wait_for_load_state("networkidle")
    assert asked == [file.as_uri()]
    assert said == []
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", WHATS)
def test_axe_finds_no_serious_fault(
    chromium: Browser, reports: dict[str, Path], name: str, scheme: str
) -> None:
    page = open_page(chromium, reports[name], color_scheme=scheme)
    look(page, f"{name}-{scheme}")
    serious = [
        (each["id"], [node["html"][:200] for node in each["nodes"][:3]])
        for each in faults(page)
        if each["impact"] in ("serious", "critical")
    ]
    assert serious == []
    page.context.close()


@pytest.mark.parametrize("name", WHATS)
def test_a_narrow_screen_scrolls_downwards_only(
    chromium: Browser, reports: dict[str, Path], name: str
) -> None:
    page = open_page(chromium, reports[name], viewport={"width": 400, "height": 800})
    look(page, f"{name}-narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.context.close()


@pytest.mark.parametrize("name", WHATS)
def test_without_javascript_all_is_there(
    chromium: Browser, reports: dict[str, Path], name: str
) -> None:
    page = open_page(chromium, reports[name], java_script_enabled=False)
    page.context.close()
    words = open_page(chromium, reports[name]).inner_text("main")
    assert "What ran" in words
    assert "Where the hours went" in words


def test_it_is_light_on_paper_and_nothing_is_folded(
    chromium: Browser, reports: dict[str, Path]
) -> None:
    page = open_page(chromium, reports["bad"], color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    shown = page.evaluate(
        "[...document.querySelectorAll('details pre')].every(e => e.checkVisibility())"
    )
    assert shown
    folder = os.environ.get("ESPNET3_SCREENSHOTS")
    document = page.pdf(path=Path(folder) / "bad.pdf" if folder else None, format="A4")
    assert document.startswith(b"%PDF")
    page.context.close()


def test_nothing_of_a_hostile_text_is_obeyed(chromium: Browser, reports: dict[str, Path]) -> None:
    page = open_page(chromium, reports["hostile"])
    assert page.locator("script, img, iframe, object, embed, form").count() == 0
    assert "<script>fetch(" in page.inner_text("main")
    page.context.close()
