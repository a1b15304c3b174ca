"""`AsyncRun`: submit and collect for one run directory, in coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, overload

from espnet3.collect.in_memory import to_dataset, to_pandas
from espnet3.collect.kaldi import to_kaldi
from espnet3.collect.log_files import logs
from espnet3.collect.merge import Collected, collect, stream
from espnet3.collect.shard_jobs import shard_jobs
from espnet3.collect.vouching import Errors
from espnet3.run_dir.result_lines import ResultRecord
from espnet3.run_dir.trust import Trust
from espnet3.status.run_status import RunStatus
from espnet3.status.watching import status, watch
from espnet3.storage.opening import absolute_root
from espnet3.storage.retry import PATIENCE
from espnet3.submit.cancellation import cancel
from espnet3.submit.code import WhichCode
from espnet3.submit.removal import Removed, remove
from espnet3.submit.resumption import WhichItems, resume
from espnet3.submit.submission import Submitted
from espnet3.text import counted, visible_line

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from espnet3.specs.finishing import Finished, QueuedFinisher


class KnownRun:
    """What both kinds know of their run."""

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        submitted: Submitted | None = None,
        *,
        trust: Trust | None = None,
    ) -> None:
        self.trust = trust
        self.run_dir = absolute_root(run_dir)
        self.submitted = submitted

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run_dir!r})"

    def __str__(self) -> str:
        """The run, and what the call that made this object submitted."""
        done = self.submitted
        if done is None:
            return repr(self)
        if done.number is None:
            return f"{self!r}: nothing had to be submitted"
        ids = visible_line(", ".join(done.job_ids))
        return f"{self!r}: submitted {counted(len(done.ranks), 'shard')}, job ids {ids}"


class AsyncRun(KnownRun):
    """A run, known by its directory alone, for programs that have an event loop.

    It has the methods of `Run`, each to be awaited; `stream` is an asynchronous iterator. Nothing
    is read before a method is called.

    Args:
        run_dir: the run directory, a path or fsspec URL.
        submitted: what the call that made this object submitted, if one did.
        trust: whose run directories `resume`, `cancel` and `collect` believe, as in the parallel
            config; what `set_parallel` set where unset.

    Example:
        >>> run = AsyncRun("/shared/decode")
        >>> (await run.status()).counts()               # doctest: +SKIP
        {'done': 40}
        >>> async for record in run.stream(): ...       # doctest: +SKIP
    """

    async def __aiter__(self) -> AsyncIterator[dict[str, str]]:
        """`job_id`, `spec` and `result` of each shard; see `espnet3.collect.shard_jobs`."""
        for job in await shard_jobs(self.run_dir):
            yield job

    async def status(self) -> RunStatus:
        """The state of every shard, and how far its items are; see `espnet3.collect.status`."""
        return await status(self.run_dir)

    async def wait(self, timeout: float | None = None, interval: float = 5.0) -> RunStatus:
        """Wait until nothing of the run is queued or running.

        Args:
            timeout: seconds after which to give up; no limit where unset.
            interval: seconds between two looks.

        Returns:
            The state then; `done` says whether every shard has a receipt, `sound` whether no item
            failed either.

        Raises:
            TimeoutError: the timeout has passed.
        """
        async with asyncio.timeout(timeout):
            async for seen in watch(self.run_dir, interval):
                last = seen
        return last

    @overload
    async def collect(
        self,
        output: None = None,
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Any: ...

    @overload
    async def collect(
        self,
        output: str | os.PathLike[str],
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Collected: ...

    async def collect(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Any:
        """Gather the results, complete and verified; see `espnet3.collect.collect`."""
        how: dict[str, Any] = {"partial": partial, "errors": errors, "patience": patience}
        return await collect(self.run_dir, output, trust=self.trust, **how)

    def stream(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> AsyncIterator[ResultRecord]:
        """The records one by one, in constant memory; see `espnet3.collect.stream`."""
        return stream(
            self.run_dir, partial=partial, errors=errors, patience=patience, trust=self.trust
        )

    async def to_pandas(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> pd.DataFrame:
        """The results as a DataFrame of pandas; see `espnet3.collect.to_pandas`."""
        how: dict[str, Any] = {"partial": partial, "errors": errors, "patience": patience}
        return await to_pandas(self.run_dir, trust=self.trust, **how)

    async def to_dataset(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> datasets.Dataset:
        """The results as a Dataset of Hugging Face; see `espnet3.collect.to_dataset`."""
        how: dict[str, Any] = {"partial": partial, "errors": errors, "patience": patience}
        return await to_dataset(self.run_dir, trust=self.trust, **how)

    async def to_kaldi(
        self,
        folder: str | os.PathLike[str],
        key: str,
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Collected:
        """Write a file as Kaldi reads it for each field; see `espnet3.collect.to_kaldi`."""
        how: dict[str, Any] = {"partial": partial, "errors": errors, "patience": patience}
        return await to_kaldi(self.run_dir, folder, key, trust=self.trust, **how)

    async def resume(
        self,
        ranks: Iterable[int | str | os.PathLike[str]] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
        repair: bool = False,
        items: WhichItems = "missing",
        patience: float = PATIENCE,
        code: WhichCode | None = None,
        skip: Iterable[Any] = (),
        skip_failing: bool = False,
    ) -> Submitted:
        """Submit what is missing; see `espnet3.submit.resume`."""
        self.submitted = await resume(
            self.run_dir,
            ranks,
            options=options,
            force=force,
            repair=repair,
            items=items,
            patience=patience,
            code=code,
            trust=self.trust,
            skip=skip,
            skip_failing=skip_failing,
        )
        return self.submitted

    async def finish(self) -> QueuedFinisher | Finished:
        """Queue a finisher, or say how the run ended; see `espnet3.finish.calls.queue`."""
        from espnet3.finish.calls import queue  # which few programs need

        return await queue(self.run_dir, self.trust)

    async def report(self, output: str | os.PathLike[str] | None = None) -> str:
        """Write the run as one HTML page; see `espnet3.report.report`."""
        from espnet3.report.calls import report  # which few programs need

        return await report(self.run_dir, output)

    async def cancel(self) -> list[str]:
        """Stop all jobs of the run; see `espnet3.submit.cancel`."""
        return await cancel(self.run_dir, trust=self.trust)

    async def remove(
        self,
        *,
        cancel: bool = False,
        merged: bool = False,
        everything: bool = False,
        force: bool = False,
    ) -> Removed:
        """Remove the run's directory, unless it is alive; see `espnet3.submit.remove`."""
        how = {"cancel": cancel, "merged": merged, "everything": everything, "force": force}
        return await remove(self.run_dir, trust=self.trust, **how)

    async def logs(self, rank: int) -> list[str]:
        """The log files of a shard; see `espnet3.collect.logs`."""
        return await logs(self.run_dir, rank)
