"""dask_jobqueue, imported without its side effect. The only module that imports it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _signals_untouched() -> Iterator[None]:
    """dask_jobqueue.runner (0.9) replaces the SIGINT handler when it is imported.

    That would change how the user's program reacts to Ctrl-C, and fails outside the main thread.
    """
    original = signal.signal
    signal.signal = lambda number, handler: None  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = original


with _signals_untouched():
    import dask_jobqueue
    from dask_jobqueue.core import Job, JobQueueCluster
    from distributed import Status

_NAMES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "htcondor": "HTCondorCluster",
    "moab": "MoabCluster",
    "oar": "OARCluster",
}
CLUSTERS: dict[str, Any] = {env: getattr(dask_jobqueue, name) for env, name in _NAMES.items()}
"""`env` of the parallel config -> cluster class."""


def noting_refusals(cluster: type[Any]) -> type[Any]:
    """A cluster class whose instances keep what the submit command said when it failed.

    By themselves they log it and try again for ever.
    """
    said: list[str] = []
    job: type[Any] = cluster.job_cls

    class NotingJob(job):  # type: ignore[misc]
        async def _submit_job(self, script_filename: str) -> Any:
            try:
                return await super()._submit_job(script_filename)
            except (RuntimeError, OSError) as error:
                message = str(error)
                said.append(message.partition("stderr:\n")[2].strip() or message)
                self.status = Status.failed  # or the cluster cannot be closed
                raise

        @staticmethod
        async def _call(cmd: list[str], *, shell: bool = False, **options: Any) -> Any:
            # Ctrl-C would end a submission that is accepted already, and nobody knew its job.
            return await job._call(cmd, shell=shell, start_new_session=True, **options)

    class NotingCluster(cluster):  # type: ignore[misc]
        job_cls = NotingJob
        refusals = said

        def __del__(self) -> None:
            # A constructor that raised has left nothing to close, but this would warn of it.
            if "_created" in vars(self):
                super().__del__()

    NotingCluster.__name__ = cluster.__name__
    return NotingCluster


__all__ = ["CLUSTERS", "Job", "JobQueueCluster", "noting_refusals"]
