"""The environment on a Dask worker: built once per process, handed to functions by name."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from distributed import WorkerPlugin, get_worker

from espnet3.errors import EnvironmentFailed
from espnet3.parallel.pickles import dumps, loads
from espnet3.text import one_line
from espnet3.user_code.keywords import taken_by

ENV = "env"


class DictReturnWorkerPlugin(WorkerPlugin):
    """Builds an environment once per worker process and keeps it as `worker.plugins["env"]`.

    Args:
        setup_fn: builds the environment on the worker and returns it, a dict.

    Raises:
        ValueError: on the worker, where `setup_fn` returns no dict.
    """

    name = ENV

    def __init__(self, setup_fn: Callable[[], dict[str, Any]]) -> None:
        self._setup_fn: Callable[[], dict[str, Any]] | None = setup_fn
        self._pickled: bytes | None = None
        self.problem = "it was not called yet"

    @property
    def setup_fn(self) -> Callable[[], dict[str, Any]]:
        """What builds the environment; unpickled when it is needed, which imports the modules."""
        if self._setup_fn is None and self._pickled is not None:
            self._setup_fn = loads(self._pickled)
        return cast("Callable[[], dict[str, Any]]", self._setup_fn)

    def __getstate__(self) -> dict[str, Any]:
        if self._pickled is None:
            self._pickled = dumps(self._setup_fn)
        return {**vars(self), "_setup_fn": None}

    def setup(self, worker: Any) -> Awaitable[None] | None:
        """Build the environment; in a thread, so that the worker stays in touch meanwhile.

        For the `setup` of a subclass, which calls this one, it is there at once.
        """
        if type(self).setup is DictReturnWorkerPlugin.setup:
            return asyncio.to_thread(self._set_up, worker)
        self._set_up(worker)
        return None

    def _set_up(self, worker: Any) -> None:
        try:
            env = self.setup_fn()
            if not isinstance(env, dict):
                raise ValueError(f"setup_fn must return a dict, got {type(env).__name__}")
        except BaseException as error:
            self.problem = f"{type(error).__name__}: {one_line(str(error))}"
            raise
        worker.plugins[ENV] = env
        os.environ["DASK_WORKER_ID"] = str(worker.id)


def wrap_func_with_worker_env(func: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function so that it gets entries of the worker's environment as keyword arguments.

    Args:
        func: gets the entries that its parameters name; all of them if it takes `**kwargs`.

    Raises:
        ValueError: on the worker, where the caller passes a name that the environment has too.
    """

    @functools.wraps(func)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return bound_to_env(func, kwargs)(*args)

    return wrapped


def _worker_env() -> Mapping[str, Any]:
    env: Any = get_worker().plugins.get(ENV, {})
    if isinstance(env, DictReturnWorkerPlugin):  # it could not be built on this worker
        raise EnvironmentFailed(f"setup_fn failed on {get_worker().address}: {env.problem}")
    return cast("Mapping[str, Any]", env)


def env_names() -> list[str]:
    """The names in the environment of the worker that runs this."""
    return list(_worker_env())


def require_no_conflict(names: set[str]) -> None:
    """Raise a ValueError if any name is both in the environment and a keyword argument."""
    if names:
        raise ValueError(
            f"{', '.join(sorted(names))}: both in the worker's environment and passed as a keyword "
            "argument; pass only one of them"
        )


def bound_to_env(func: Callable[..., Any], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with its keyword arguments and the entries of the environment that it names."""
    env = _worker_env()
    require_no_conflict(env.keys() & kwargs.keys())
    wanted = {name: env[name] for name in taken_by(func, env)}
    return functools.partial(func, **kwargs, **wanted) if kwargs or wanted else func
