"""From a parallel config to a Dask cluster, for every `env`."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import itertools
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import distributed

from espnet3.config.model import ParallelConfig, did_you_mean
from espnet3.errors import ConfigError, EspnetError, MissingExtra
from espnet3.parallel.main_guard import require_main_guard
from espnet3.storage.paths import as_entered
from espnet3.text import one_line

EXTRAS = {
    "local_gpu": ("dask_cuda", "gpu"),
    "kube": ("dask_kubernetes.operator", "kube"),
    "ssh": ("asyncssh", "ssh"),
}
"""`env` -> module and the extra of this package that brings it."""


# Dask puts the interpreter into scripts and remote commands as it is; its path may have spaces.
_PYTHON = shlex.quote(as_entered(sys.executable))

_SATURATION = "distributed.scheduler.worker-saturation"


def make_cluster(config: ParallelConfig) -> Any:
    """Start a Dask cluster with `n_workers` workers, or ask a scheduler for them.

    Options go to Dask's cluster class unchanged.

    Args:
        config: the validated parallel config.

    Returns:
        A Dask cluster; close it after use.

    Raises:
        ConfigError: an option is wrong, or the `env` needs a package that is not installed.
        UsageError: the script that starts processes of this host is not guarded against itself.
    """
    if config.env == "local_gpu" or (
        config.env == "local" and config.options.get("processes", True)
    ):
        require_main_guard()
    try:
        with dask.config.set({_SATURATION: _saturation()}):
            return _made_whole(config)
    except EspnetError:  # some are ValueErrors, too
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # a worker of this host that cannot be made
            cause = cause.__cause__
        if not isinstance(cause, (TypeError, ValueError)):
            raise
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
        if unknown and unknown[1] in config.options:
            raise _no_such_option(config.env, unknown[1]) from error
        raise ConfigError("parallel.options", one_line(str(cause))) from error


def _no_such_option(env: str, name: str) -> ConfigError:
    first, *others = _makers(env)
    known = {name for maker in (first, *others) for name in _parameters(maker)}
    said = f"{first.__name__} has no such option{did_you_mean(name, known)}"
    return ConfigError(f"parallel.options.{name}", said)


def _makers(env: str) -> list[Any]:
    """What options of an `env` go to: the cluster class, or what it hands them on to."""
    if env == "local":
        return [distributed.LocalCluster, distributed.Nanny, distributed.Worker]
    if env == "local_gpu":
        return [_extra(env).LocalCUDACluster]
    if env == "kube":
        return [_extra(env).KubeCluster]
    if env == "ssh":
        return [distributed.SSHCluster]
    from espnet3._jobqueue import CLUSTERS

    return [CLUSTERS[env], CLUSTERS[env].job_cls]


def _parameters(maker: Any) -> set[str]:
    """Names of the keyword arguments of a function, or of a class and its bases.

    Those of Dask's base of all clusters are none that a user sets.
    """
    calls = [maker]
    if inspect.isclass(maker):
        bases = itertools.takewhile(lambda base: base is not distributed.SpecCluster, maker.__mro__)
        calls = [vars(base).get("__init__") for base in bases]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        parameter.name
        for call in calls
        if inspect.isfunction(call)
        for parameter in inspect.signature(call).parameters.values()
        if parameter.kind in named and parameter.name != "self"
    }


def _made_whole(config: ParallelConfig) -> Any:
    """Make the cluster in a thread: what Ctrl-C leaves half made could not be closed."""
    with ThreadPoolExecutor(1, "espnet3-cluster") as thread:
        making = thread.submit(_MAKERS.get(config.env, _jobqueue), config)
        try:
            return making.result()
        except KeyboardInterrupt:
            with contextlib.suppress(Exception):  # it could not be made, so there is none to close
                making.result().close()
            raise


def _saturation() -> float:
    """Tasks that a worker gets per thread: one, and not one more that would wait behind it.

    What the user's Dask config says instead of the default stays.
    """
    chosen = float(dask.config.get(_SATURATION, 1.1))
    return 1.0 if chosen == 1.1 else chosen


def make_local_gpu_cluster(n_workers: int, options: dict[str, Any]) -> Any:
    """A `dask_cuda.LocalCUDACluster`, one worker for each GPU.

    Args:
        n_workers: how many workers.
        options: keyword arguments of the cluster.

    Raises:
        ConfigError: dask-cuda is not installed, or finds no GPU.
    """
    module = _extra("local_gpu")
    try:
        return module.LocalCUDACluster(n_workers=n_workers, **options)
    except Exception as error:  # the driver's, whose classes come with dask-cuda alone
        if type(error).__module__ != "pynvml":
            raise
        raise ConfigError(
            "parallel.env",
            f"'local_gpu' needs a GPU and its driver on this host: {one_line(str(error))}",
        ) from error


def _local(config: ParallelConfig) -> Any:
    # One thread: models are rarely safe to call from several. Any port for the dashboard: the usual
    # one may be taken.
    defaults: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with _environment_kept():
        return distributed.LocalCluster(
            n_workers=config.n_workers, **{**defaults, **config.options}
        )


def _local_gpu(config: ParallelConfig) -> Any:
    return make_local_gpu_cluster(config.n_workers, dict(config.options))


def _kube(config: ParallelConfig) -> Any:
    module = _extra("kube")
    return module.KubeCluster(**{"n_workers": config.n_workers, **config.options})


def _ssh(config: ParallelConfig) -> Any:
    if "hosts" not in config.options:
        raise ConfigError(
            "parallel.options.hosts",
            "is missing; give the scheduler's host, then those of the workers",
        )
    _extra("ssh")
    options: dict[str, Any] = dict(config.options)
    options.setdefault("remote_python", _PYTHON)
    return distributed.SSHCluster(**options)


def _jobqueue(config: ParallelConfig) -> Any:
    from espnet3._jobqueue import CLUSTERS, noting_refusals, used_options
    from espnet3.schedulers import get_dialect, get_scheduler
    from espnet3.schedulers.job_options import check_options

    job, dialect = CLUSTERS[config.env].job_cls, get_dialect(config.env)
    used = used_options(job, config.options, _parameters(job))
    check_options(
        dialect, used.values, lambda name: used.place(config.options, name), detached=False
    )
    scheduler = get_scheduler(config.env)
    cluster_class = noting_refusals(CLUSTERS[config.env], scheduler, used.stated)
    options: dict[str, Any] = {**used.corrected, **config.options}
    section = used.section
    if not dask.config.get(f"jobqueue.{section}.scheduler-options", None):
        # Any free port: on a login node, others have the usual one.
        options.setdefault("scheduler_options", {"dashboard_address": ":0"})
    if dask.config.get(f"jobqueue.{section}.python", None) is None:
        options.setdefault("python", _PYTHON)
    cluster = cluster_class(**options)
    # Equal limits keep that many workers: a job that dies is replaced.
    cluster.adapt(minimum=config.n_workers, maximum=config.n_workers)
    return cluster


_MAKERS: dict[str, Callable[[ParallelConfig], Any]] = {
    "local": _local,
    "local_gpu": _local_gpu,
    "kube": _kube,
    "ssh": _ssh,
}


def _extra(env: str) -> Any:
    module, extra = EXTRAS[env]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        reason = one_line(str(error), 80)
        problem = f"{env!r} needs {module.partition('.')[0]} ({reason})"
        install = f"pip install 'espnet3[{extra}]'"
        raise MissingExtra("parallel.env", f"{problem}: {install}") from None


def job_ids(cluster: Any) -> list[str]:
    """Ids of the jobs that a cluster has asked a batch system for; none for other clusters."""
    workers = getattr(cluster, "workers", {})
    return [str(job.job_id) for job in workers.values() if getattr(job, "job_id", None)]


def refusal(cluster: Any) -> str:
    """What a batch system said when it refused a cluster's job, or ""."""
    said: list[str] = getattr(cluster, "refusals", [])
    return said[-1] if said else ""


def reasons(env: str, ids: list[str]) -> str:
    """What a batch system says about jobs that wait, or "" where it says nothing."""
    from espnet3._blocking import run_blocking
    from espnet3.schedulers import get_scheduler

    if not ids:
        return ""
    try:
        return run_blocking(get_scheduler(env).reasons(ids))
    except EspnetError:
        return ""


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Put back what Dask's nannies set in this process for their workers (`OMP_NUM_THREADS=1`).

    Else detached workers of a later call would take it over as a change of the user's.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
