"""dask_jobqueue, imported without its side effect. The only module that imports it."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import dask
from pydantic import JsonValue

from espnet3.config.option_kinds import WRITTEN
from espnet3.config.yaml_values import written
from espnet3.schedulers.base import Scheduler


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


class UsedOptions(NamedTuple):
    """The options of a job that are really used.

    Attributes:
        values: as given, else from the user's jobqueue.yaml; None is not among them.
        corrected: those whose value in jobqueue.yaml YAML had read as another one.
        stated: the names of those that somebody has set; the others are dask-jobqueue's defaults.
        section: that of jobqueue.yaml.
    """

    values: dict[str, JsonValue]
    corrected: dict[str, JsonValue]
    stated: frozenset[str]
    section: str

    def place(self, given: Iterable[str], name: str) -> str:
        """Where an option comes from, for errors."""
        here = f"parallel.options.{name}"
        return here if name in given else f"jobqueue.yaml: jobqueue.{self.section}.{_key(name)}"


def used_options(
    job: type[Any], given: Mapping[str, JsonValue], names: Iterable[str]
) -> UsedOptions:
    """Every option's value: as given, else from the user's jobqueue.yaml.

    Args:
        job: dask-jobqueue's job class.
        given: the options of the parallel config.
        names: the options that there are.
    """
    section = str(given.get("config_name") or job.default_config_name())
    values = {name: value for name, value in given.items() if value is not None}
    corrected: dict[str, JsonValue] = {}
    stated = set(values)
    defaults = _defaults(section)
    for name in set(names) - values.keys() - {"config_name"}:
        key = _key(name)
        value = dask.config.get(f"jobqueue.{section}.{key}", None)
        if value is None:
            continue
        if value != defaults.get(key):
            stated.add(name)
        if name in WRITTEN and isinstance(value, int | float):
            text = _written(section, key, value)
            if text is not None and text != str(value):
                corrected[name] = value = text
        values[name] = list(value) if isinstance(value, tuple) else value
    return UsedOptions(dict(sorted(values.items())), corrected, frozenset(stated), section)


def _defaults(section: str) -> dict[str, Any]:
    """What a section of jobqueue.yaml says where no user has changed it."""
    found: dict[str, Any] = {}
    for known in dask.config.defaults:
        found |= known.get("jobqueue", {}).get(section, {})
    return found


def _key(name: str) -> str:
    return "name" if name == "job_name" else name.replace("_", "-")


def _written(section: str, key: str, value: float) -> str | None:
    """What stands in the user's files for a value that YAML has made a number or a truth value."""
    text = None
    for path in dask.config.paths:  # a later one counts more
        files = [path]
        if os.path.isdir(path):
            files = [os.path.join(path, name) for name in sorted(os.listdir(path))]
        for file in files:
            if file.endswith((".yaml", ".yml")):
                text = written(file, ("jobqueue", section, key), value) or text
    return text


def noting_refusals(
    cluster: type[Any], scheduler: Scheduler, stated: Iterable[str] = ()
) -> type[Any]:
    """A cluster class whose instances keep what the submit command said when it failed.

    By themselves they log it and try again for ever, take the first number for the job's id, and
    hand on the variables of an enclosing job.

    Args:
        cluster: the class.
        scheduler: the dialect of its scheduler.
        stated: names of the options that somebody has set.
    """
    said: list[str] = []
    job: type[Any] = cluster.job_cls
    options = frozenset(stated)

    class NotingJob(job):  # type: ignore[misc]
        async def _submit_job(self, script_filename: str) -> Any:
            try:
                output = await super()._submit_job(script_filename)
                if scheduler.parse_job_id(output) is None:
                    raise RuntimeError(
                        f"the submit command printed no job id, or several: {output.strip()}"
                    )
                return output
            except (RuntimeError, OSError) as error:
                message = str(error)
                said.append(message.partition("stderr:\n")[2].strip() or message)
                self.status = Status.failed  # or the cluster cannot be closed
                raise

        def _job_id_from_submit_output(self, out: str) -> str:
            number, _, where = str(scheduler.parse_job_id(out)).partition(";")
            if where:  # Slurm's, in another cluster
                self.cancel_command = f"{job.cancel_command} --clusters={where}"
            return scheduler.task_name(number, None)

        @staticmethod
        async def _call(cmd: list[str], *, shell: bool = False, **more: Any) -> Any:
            more.setdefault("env", scheduler.submit_environ(os.environ, options))
            # Ctrl-C would end a submission that is accepted already, and nobody knew its job.
            return await job._call(cmd, shell=shell, start_new_session=True, **more)

    class NotingCluster(cluster):  # type: ignore[misc]
        job_cls = NotingJob
        refusals = said

        def __del__(self) -> None:
            # A constructor that raised has left nothing to close, but this would warn of it.
            if "_created" in vars(self):
                super().__del__()

    NotingCluster.__name__ = cluster.__name__
    return NotingCluster


__all__ = [
    "CLUSTERS",
    "Job",
    "JobQueueCluster",
    "UsedOptions",
    "noting_refusals",
    "used_options",
]
