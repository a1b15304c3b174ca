"""The environment of a worker: runner and provider rebuilt, dataset and model built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from espnet3.errors import EnvironmentFailed, EspnetError
from espnet3.specs.models import RunSpec
from espnet3.worker.attempt import describe, let_go
from espnet3.worker.rebuild import enter_submitter_process, rebuild
from espnet3.worker.signals import Interrupted, Signals
from espnet3.worker.usage import Meter


def build_environment(
    run: RunSpec, signals: Signals, meter: Meter
) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Rebuild runner and provider and build the environment, once for all shards.

    Args:
        run: the run's plan.
        signals: end it, too.
        meter: measures how long it takes.

    Raises:
        EspnetError: provider or runner cannot be rebuilt here, or the provider raised.
    """
    with meter.building():
        return _build(run, signals)


def _build(run: RunSpec, signals: Signals) -> tuple[Callable[..., Any], dict[str, Any]]:
    enter_submitter_process(run)
    signals.armed = True
    try:
        runner, provider = rebuild(run)
        env = provider.make_worker_setup_fn()()
    except (EspnetError, Interrupted):
        raise
    except BaseException as error:  # the provider is the user's code, which may call sys.exit
        signals.check()
        let_go(error)
        raise EnvironmentFailed(
            f"{run.provider.cls} failed to build the environment: {describe(error)}"
        ) from error
    finally:
        signals.armed = False
    if not isinstance(env, dict):
        raise EnvironmentFailed(
            f"{run.provider.cls}: the worker setup function must return a dict, "
            f"got {type(env).__name__}"
        )
    return runner.forward, env
