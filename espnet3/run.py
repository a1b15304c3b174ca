"""`Run`: what `AsyncRun` does, blocking."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, overload

from espnet3._blocking import iterate_blocking, run_blocking
from espnet3.async_run import AsyncRun, KnownRun
from espnet3.collect.merge import Collected, stream_chunks
from espnet3.collect.shard_jobs import shard_jobs
from espnet3.collect.vouching import Errors
from espnet3.config.model import ParallelConfig, as_parallel_config
from espnet3.run_dir.result_lines import ResultRecord
from espnet3.status.run_status import RunStatus
from espnet3.storage.retry import PATIENCE
from espnet3.submit.code import WhichCode
from espnet3.submit.new_run import submit
from espnet3.submit.removal import Removed
from espnet3.submit.resumption import WhichItems
from espnet3.submit.submission import Submitted

if TYPE_CHECKING:
    import datasets
    import pandas as pd

    from espnet3.specs.finishing import Finished, QueuedFinisher


class Run(KnownRun):
    """A run, known by its directory alone. Nothing is read before a method is called.

    Each method is that of `AsyncRun`, run to its end; also where an event loop runs already, as in
    a notebook.

    Args:
        run_dir: the run directory, a path or fsspec URL.
        submitted: what the call that made this object submitted, if one did.
        trust: whose run directories `resume`, `cancel` and `collect` believe, as in the parallel
            config; what `set_parallel` set where unset.

    Example:
        >>> run = Run("/shared/decode")
        >>> run.status().counts()      # doctest: +SKIP
        {'done': 40}
        >>> run.collect()              # doctest: +SKIP
    """

    @property
    def _awaited(self) -> AsyncRun:
        return AsyncRun(self.run_dir, self.submitted, trust=self.trust)

    def __iter__(self) -> Iterator[dict[str, str]]:
        """`job_id`, `spec` and `result` of each shard; see `espnet3.collect.shard_jobs`."""
        return iter(run_blocking(shard_jobs(self.run_dir)))

    def status(self) -> RunStatus:
        """The state of every shard, and how far its items are; see `espnet3.collect.status`."""
        return run_blocking(self._awaited.status())

    def wait(self, timeout: float | None = None, interval: float = 5.0) -> RunStatus:
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
        return run_blocking(self._awaited.wait(timeout, interval))

    @overload
    def collect(
        self,
        output: None = None,
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Any: ...

    @overload
    def collect(
        self,
        output: str | os.PathLike[str],
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Collected: ...

    def collect(
        self,
        output: str | os.PathLike[str] | None = None,
        *,
        partial: bool = False,
        errors: Errors = "raise",
        patience: float = PATIENCE,
    ) -> Any:
        """Gather the results, complete and verified; see `espnet3.collect.collect`."""
        run = self._awaited
        if output is None:
            return run_blocking(run.collect(partial=partial, errors=errors, patience=patience))
        return run_blocking(run.collect(output, partial=partial, errors=errors, patience=patience))

    def stream(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> Iterator[ResultRecord]:
        """The records one by one, in constant memory; see `espnet3.collect.stream`."""
        # In lists: a step into the event loop's thread costs more than most records.
        chunks = stream_chunks(
            self.run_dir, partial=partial, errors=errors, patience=patience, trust=self.trust
        )
        for chunk in iterate_blocking(chunks):
            yield from chunk

    def to_pandas(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> pd.DataFrame:
        """The results as a DataFrame of pandas; see `espnet3.collect.to_pandas`."""
        run = self._awaited
        return run_blocking(run.to_pandas(partial=partial, errors=errors, patience=patience))

    def to_dataset(
        self, *, partial: bool = False, errors: Errors = "raise", patience: float = PATIENCE
    ) -> datasets.Dataset:
        """The results as a Dataset of Hugging Face; see `espnet3.collect.to_dataset`."""
        run = self._awaited
        return run_blocking(run.to_dataset(partial=partial, errors=errors, patience=patience))

    def to_kaldi(
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
        return run_blocking(self._awaited.to_kaldi(folder, key, **how))

    def resume(
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
        self.submitted = run_blocking(
            self._awaited.resume(
                ranks,
                options=options,
                force=force,
                repair=repair,
                items=items,
                patience=patience,
                code=code,
                skip=skip,
                skip_failing=skip_failing,
            )
        )
        return self.submitted

    def finish(self) -> QueuedFinisher | Finished:
        """Queue a finisher, or say how the run ended; see `espnet3.finish.calls.queue`."""
        return run_blocking(self._awaited.finish())

    def report(self, output: str | os.PathLike[str] | None = None) -> str:
        """Write the run as one HTML page; see `espnet3.report.report`."""
        return run_blocking(self._awaited.report(output))

    def cancel(self) -> list[str]:
        """Stop all jobs of the run; see `espnet3.submit.cancel`."""
        return run_blocking(self._awaited.cancel())

    def remove(
        self,
        *,
        cancel: bool = False,
        merged: bool = False,
        everything: bool = False,
        force: bool = False,
    ) -> Removed:
        """Remove the run's directory, unless it is alive; see `espnet3.submit.remove`."""
        how = {"cancel": cancel, "merged": merged, "everything": everything, "force": force}
        return run_blocking(self._awaited.remove(**how))

    def logs(self, rank: int) -> list[str]:
        """The log files of a shard; see `espnet3.collect.logs`."""
        return run_blocking(self._awaited.logs(rank))


def submit_run(
    runner: Any,
    items: Iterable[Any],
    *,
    run_dir: str | os.PathLike[str] | None = None,
    parallel: ParallelConfig | Mapping[str, Any] | None = None,
) -> Run:
    """Submit a run and return it; what `BaseRunner` calls in asynchronous mode."""
    submitted = run_blocking(submit(runner, items, run_dir=run_dir, parallel=parallel))
    trust = None if parallel is None else as_parallel_config(parallel).trust
    return Run(submitted.run_dir, submitted, trust=trust)
