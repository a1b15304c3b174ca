"""Workers that do not come, or go and are not replaced: the error has the scheduler's reason."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from distributed import Client

from espnet3.config.model import ParallelConfig
from espnet3.errors import NoWorkers, SchedulerUnavailable, SubmissionRefused
from espnet3.parallel.clusters import job_ids, reasons, refusal
from espnet3.parallel.waiting_words import WaitingWords
from espnet3.schedulers import get_scheduler

LOOK_EVERY = 1.0  # seconds


def wait_for_a_worker(client: Client, config: ParallelConfig) -> None:
    """Wait until a new cluster has a first worker.

    Raises:
        SubmissionRefused: the scheduler refused the workers' jobs.
        SchedulerUnavailable: it gave no answer to them.
        NoWorkers: none came within `start_timeout` seconds.
    """
    deadline = time.monotonic() + config.start_timeout
    words = WaitingWords(client, config)
    while (left := deadline - time.monotonic()) > 0:
        with contextlib.suppress(TimeoutError):
            client.wait_for_workers(1, timeout=min(left, LOOK_EVERY))
            return
        _require_no_refusal(client, config)
        words.look()
    raise _no_workers(client, config)


class WorkerWatch:
    """Looks now and then how many threads the workers have.

    Args:
        client: if `make_client` made it, its workers may be away for `start_timeout` seconds.

    Attributes:
        n_threads: the most that were there at the same time.
    """

    def __init__(self, client: Client) -> None:
        self._client: Any = client
        self._config: ParallelConfig | None = getattr(client, "parallel_config", None)
        self._looked: float | None = None
        self._without = 0.0  # seconds; only those in which somebody waited
        self._words: WaitingWords | None = None
        self.n_threads = 1

    def look(self) -> None:
        """Look again, if the last time is a while ago.

        Raises:
            SubmissionRefused: all workers are gone, and the scheduler refused to replace them.
            SchedulerUnavailable: they are, and it gave no answer.
            NoWorkers: all workers are gone, and none came for `start_timeout` seconds.
        """
        now = time.monotonic()
        passed = LOOK_EVERY if self._looked is None else now - self._looked
        if passed < LOOK_EVERY:
            return
        self._looked = now
        n_threads = sum(self._client.nthreads().values())
        self.n_threads = max(self.n_threads, n_threads)
        self._without = 0.0 if n_threads else self._without + min(passed, 2 * LOOK_EVERY)
        self._say_that_it_waits(there=bool(n_threads))
        if self._config is not None and self._without > self._config.start_timeout:
            _require_no_refusal(self._client, self._config)
            raise _no_workers(self._client, self._config)

    def _say_that_it_waits(self, *, there: bool) -> None:
        if there or self._config is None:
            self._words = None
            return
        if self._words is None:
            self._words = WaitingWords(self._client, self._config)
        self._words.look()


def _require_no_refusal(client: Client, config: ParallelConfig) -> None:
    if said := refusal(client.cluster):
        if get_scheduler(config.env).no_answer.search(said):
            raise SchedulerUnavailable(config.env, said)
        raise SubmissionRefused(config.env, said, "try again")


def _no_workers(client: Client, config: ParallelConfig) -> NoWorkers:
    why = reasons(config.env, job_ids(client.cluster))
    return NoWorkers(config.env, config.start_timeout, why)
