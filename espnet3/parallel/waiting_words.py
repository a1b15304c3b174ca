"""What the synchronous mode says on stderr while its workers do not come, and where to look."""

from __future__ import annotations

import importlib.util
import logging
import sys
import threading
import time
from typing import Any

import dask
from distributed import Client

from espnet3.config.model import ParallelConfig
from espnet3.parallel.clusters import job_ids, reasons
from espnet3.text import one_line

FIRST_WORD = 3.0  # seconds in which workers may come without a word
ASK_EVERY = 10.0  # seconds between two questions to the scheduler


class WaitingWords:
    """Says that workers are waited for, and what the scheduler says of it; again when that changes.

    Args:
        client: whose workers are waited for.
        config: what its cluster was made from.
    """

    def __init__(self, client: Client, config: ParallelConfig) -> None:
        self._client, self._config = client, config
        self._began = time.monotonic()
        self._asked: float | None = None
        self._asking: threading.Thread | None = None
        self._why, self._said = "", ""

    def look(self, n_there: int = 0) -> None:
        """Say what there is to say by now. It never waits for the scheduler's answer."""
        now = time.monotonic()
        if now - self._began < FIRST_WORD or (self._asking and self._asking.is_alive()):
            return
        if self._asked is None or now - self._asked > ASK_EVERY:
            self._asked = now
            self._asking = threading.Thread(target=self._ask, name="espnet3-reasons", daemon=True)
            self._asking.start()
            self._asking.join(1.0)  # most answer at once
        if self._asking is None or not self._asking.is_alive():
            why = f", {self._why}" if self._why else ""
            self._say(f"waiting for workers: {n_there} of {self._config.n_workers}{why}")

    def _ask(self) -> None:
        self._why = one_line(reasons(self._config.env, job_ids(self._client.cluster)), 200)

    def _say(self, words: str) -> None:
        if words != self._said:
            self._said = words
            tell(words)


def tell(words: str) -> None:
    """A line on stderr, where there is one."""
    if sys.stderr is not None:
        sys.stderr.write(f"espnet3: {words}\n")
        sys.stderr.flush()


def tell_dashboard(client: Client) -> None:
    """Say where a cluster's dashboard is; without Bokeh (the extra `dashboard`) there is none."""
    link: Any = client.dashboard_link
    if link and importlib.util.find_spec("bokeh") is not None:
        tell(f"dashboard: {link}")


def calm_distributed() -> None:
    """Let `distributed` log no INFO lines by default, which would flood an application's log.

    By its own handlers Dask hides them; where the application has set up logging first, as Hydra
    does, they go there. Another level, or `logging` in Dask's config, is the user's and stays.
    """
    logger = logging.getLogger("distributed")
    chosen = (dask.config.get(key, None) for key in ("logging", "distributed.logging"))
    if logger.level == logging.INFO and not any(chosen):
        logger.setLevel(logging.WARNING)
