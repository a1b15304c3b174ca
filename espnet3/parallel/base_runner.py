"""The runner: a static `forward`, called for every item in one of three modes."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from espnet3.errors import ConfigError
from espnet3.parallel.config import get_parallel_config
from espnet3.parallel.env_provider import EnvironmentProvider, look_at_class
from espnet3.parallel.progress_bar import progress_bar
from espnet3.parallel.writer_hooks import WriterHooks
from espnet3.parallel.writer_hooks import concatenate_shard_files as concatenate_shard_files
from espnet3.text import visible
from espnet3.user_code.instances import its_own_changes
from espnet3.user_code.references import require_static_forward
from espnet3.user_code.writers import has_writers

if TYPE_CHECKING:
    from pathlib import Path

    from espnet3.run import Run

log = logging.getLogger("espnet3.parallel")


class BaseRunner(WriterHooks):
    """Runs a static `forward` over items.

    With no parallel config (`set_parallel`) it runs here, one item after the other. With one it
    runs on a shared Dask client, and with `async_mode` it submits and returns at once. A runner
    that overrides one of the hooks of `WriterHooks` writes its results itself, in all three modes.

    Args:
        provider: builds the environment, the keyword arguments of `forward`.
        batch_size: pass lists of that many items to each call of `forward`.
        *further: by position ESPnet3's: of 2025, where the first is a bool, `async_mode`,
            `async_specs_dir`, `async_result_dir`; else of 2026, `output_dir`, `shard_subdir`,
            `resume`.
        async_mode: submit shards to the configured environment and return a `Run`; also on where
            the parallel config says so.
        run_dir: the run directory of an asynchronous run, a path or fsspec URL; a new folder below
            `async_result_dir` where unset.
        async_result_dir: where new run directories are made; ESPnet3's name.
        async_specs_dir: ESPnet3's, without effect: specs lie beside the results of their run. The
            attribute of this name is the folder of those of the last call.
        output_dir: the folder for what a runner writes itself.
        shard_subdir: a path below it, such as a test set's name.
        resume: whether shards that were written before are left as they are.

    Raises:
        ConfigError: `batch_size` is not a positive integer.
        TypeError: there is one too many.

    Example:
        >>> from espnet3.parallel import EnvironmentProvider
        >>> class Nothing(EnvironmentProvider):
        ...     def build_env_local(self):
        ...         return {}
        >>> class Square(BaseRunner):
        ...     @staticmethod
        ...     def forward(idx, **env):
        ...         return idx * idx
        >>> Square(Nothing({}))(range(4))
        [0, 1, 4, 9]
    """

    def __init__(
        self,
        provider: EnvironmentProvider,
        batch_size: int | None = None,
        *further: Any,
        async_mode: bool = False,
        run_dir: str | os.PathLike[str] | None = None,
        async_specs_dir: str | os.PathLike[str] | None = None,
        async_result_dir: str | os.PathLike[str] = "espnet3_runs",
        output_dir: str | os.PathLike[str] | None = None,
        shard_subdir: str = "",
        resume: bool = True,
    ) -> None:
        given = _by_position(further)
        async_mode = given.get("async_mode", async_mode)
        async_specs_dir = given.get("async_specs_dir", async_specs_dir)
        output_dir = given.get("output_dir", output_dir)
        if batch_size is not None and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError("batch_size", f"must be an integer from 1, got {batch_size!r}")
        if async_specs_dir is not None:
            warnings.warn(
                f"async_specs_dir={os.fspath(async_specs_dir)!r} has no effect: the specs of a run "
                "lie in its run directory, beside the results",
                UserWarning,
                stacklevel=2,
            )
        self.provider = provider
        self.batch_size = batch_size
        self.async_mode = async_mode
        self.run_dir = run_dir
        self.async_result_dir = given.get("async_result_dir", async_result_dir)
        self.output_dir = _as_path(output_dir)
        self.shard_subdir: str = given.get("shard_subdir", shard_subdir) or ""
        self.resume: bool = given.get("resume", resume)
        self.async_specs_dir = _as_path(run_dir or self.async_result_dir)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        look_at_class(cls)

    @staticmethod
    def forward(*args: Any, **env: Any) -> Any:
        """Compute one item: `forward(idx, *, dataset, model, ...)` in a subclass.

        Args:
            *args: the item; a list of `batch_size` items where that is set.
            **env: what the provider built.
        """
        raise NotImplementedError("define a static forward(idx, **env)")

    @classmethod
    def customize_job_cls(cls, job_cls: type[Any]) -> type[Any]:
        """Change how jobs are submitted: the hook on the way to the scheduler.

        Called once per submission, on a host that can submit. `docs/customising.md` has recipes
        for changing the submit command, the environment and the prologue.

        Args:
            job_cls: the dask-jobqueue job class about to be used, made for this submission.

        Returns:
            The class to use: `job_cls` itself or a subclass of it.
        """
        return job_cls

    def __call__(self, items: Iterable[Any]) -> Any:
        """Run `forward` over the items.

        Returns:
            A list of the results in the items' order; what `merge` returns where the runner writes
            them itself; or in asynchronous mode the `Run`, as `submit` does.
        """
        parallel = get_parallel_config()
        if self.async_mode or (parallel is not None and parallel.async_mode):
            run = self.submit(items)
            log.info("%s", run)  # for callers that do not look at it, such as ESPnet3's `infer`
            return run
        require_static_forward(type(self))
        calls = self._calls(items)
        show_progress = sys.stderr is not None and sys.stderr.isatty()  # none where it is closed
        if has_writers(type(self)):
            from espnet3.parallel.writing import write_shards  # which no worker needs

            return write_shards(self, calls, parallel, show_progress=show_progress)
        if parallel is not None:
            # At call time too: it loads Dask.
            from espnet3.parallel.synchronous import run_synchronously

            return run_synchronously(self, calls, parallel, show_progress=show_progress)
        return self._run_here(calls, show_progress)

    def submit(self, items: Iterable[Any]) -> Run:
        """Submit `forward` over the items, in asynchronous mode whatever is configured.

        Returns:
            The run. The same call again continues it.

        Raises:
            EspnetError: as `espnet3.submit.submit` does.
        """
        # The one way from what users subclass to what submits; at call time, so that a worker,
        # which imports this module, loads nothing of it.
        from espnet3.run import submit_run
        from espnet3.specs.layout import SHARDS

        run = submit_run(self, items, parallel=get_parallel_config())
        self.async_specs_dir = _as_path(os.path.join(run.run_dir, SHARDS))
        return run

    def _calls(self, items: Iterable[Any]) -> Sequence[Any]:
        """What `forward` is called with: the items, or lists of `batch_size` of them."""
        calls = items if isinstance(items, list | tuple | range) else list(items)  # can be sliced
        if self.batch_size is None:
            return calls
        starts = range(0, len(calls), self.batch_size)
        return [list(calls[first : first + self.batch_size]) for first in starts]

    def _run_here(self, calls: Sequence[Any], show_progress: bool) -> list[Any]:
        """Local mode: call `forward` for each of the calls, in this process."""
        from espnet3.user_code.variables import its_own_work  # which no worker needs

        classes = [type(self), type(self.provider)]
        with its_own_changes(self.provider), its_own_work(classes):
            return self._compute_here(calls, show_progress)

    def _compute_here(self, calls: Sequence[Any], show_progress: bool) -> list[Any]:
        env = self.provider.build_env_local()
        if not show_progress:
            return [self.forward(item, **env) for item in calls]
        results = []
        with progress_bar(visible(type(self).__name__), len(calls), shown=True) as advance:
            for item in calls:
                results.append(self.forward(item, **env))
                advance(1)
        return results


_OF_2025 = ("async_mode", "async_specs_dir", "async_result_dir")
_OF_2026 = ("output_dir", "shard_subdir", "resume")


def _by_position(further: tuple[Any, ...]) -> dict[str, Any]:
    """Arguments that two versions of ESPnet3 had in different orders, by their names."""
    names = _OF_2025 if further and isinstance(further[0], bool) else _OF_2026
    if len(further) > len(names):
        raise TypeError(f"BaseRunner takes {2 + len(names)} arguments by position at most")
    return dict(zip(names, further, strict=False))


def _as_path(path: str | os.PathLike[str] | None) -> Path | None:
    from pathlib import Path  # which a worker that imports this module does not need

    return None if path is None else Path(path)
