"""A real Chromium for tests that look at pages: Debian's, driven by Playwright."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT  # axe-core itself
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support import debian

PROGRAM = "/usr/bin/chromium"


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A Chromium without a window, from Debian."""
    debian.require("chromium", {PROGRAM: "chromium"})
    with sync_playwright() as playwright:
        # Root has no sandbox, and the pages are ours.
        started = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


def faults(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds on a page."""
    page.evaluate(AXE_SCRIPT)
    found: list[dict[str, Any]] = page.evaluate("async () => (await axe.run()).violations")
    return found
