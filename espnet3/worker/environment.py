"""The environment of a worker: runner and provider rebuilt, dataset and model built."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from espnet3.errors import EnvironmentFailed, EspnetError
from espnet3.specs.models import RunSpec
from espnet3.worker.attempt import describe, let_go
from espnet3.worker.rebuild import enter_submitter_process, rebuild
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.usage import Meter


def build_environment(
    run: RunSpec, signals: Signals, meter: Meter, rank: int
) -> tuple[type[Any], dict[str, Any]]:
    """Rebuild runner and provider and build the environment, once for all shards.

    Args:
        run: the run's plan.
        signals: end it, too.
        meter: measures how long it takes.
        rank: of the first shard; in the dynamic schedule, where that is not known, the task.

    Returns:
        The runner's class and the environment.

    Raises:
        EspnetError: provider or runner cannot be rebuilt here, or the provider raised.
    """
    with meter.building():
        return _build(run, signals, rank)


def _build(run: RunSpec, signals: Signals, rank: int) -> tuple[type[Any], dict[str, Any]]:
    enter_submitter_process(run)
    signals.armed = True
    try:
        runner, provider = rebuild(run)
        tell_world(run, rank)
        env = environment_of(run, provider, signals.check)
    finally:
        signals.armed = False
    return runner, env


def tell_world(run: RunSpec, rank: int) -> None:
    """Set the variables that ESPnet3's workers have: of how many shards this is which."""
    os.environ.update(WORLD_SIZE=str(run.world_size), WORLD_RANK=str(rank))


def environment_of(
    run: RunSpec, provider: Any, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Build the environment of a provider.

    Args:
        run: whose provider it is.
        provider: rebuilt from its spec.
        check: called where it raised: raises what was the reason in truth, such as a signal.

    Raises:
        EnvironmentFailed: the provider raised, or did not return a dict.
    """
    try:
        env = provider.make_worker_setup_fn()()
    except (EspnetError, Interrupted):
        raise
    except BaseException as error:  # the provider is the user's code, which may call sys.exit
        check()
        error = let_go(error)
        raise EnvironmentFailed(
            f"{run.provider.cls} failed to build the environment: {describe(error)}"
        ) from error
    if not isinstance(env, dict):
        raise EnvironmentFailed(
            f"{run.provider.cls}: the worker setup function must return a dict, "
            f"got {type(env).__name__}"
        )
    return env
