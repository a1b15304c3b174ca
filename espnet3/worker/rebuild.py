"""From a RunSpec back to what the user submitted: the submitter's process, runner, provider."""

from __future__ import annotations

import os
from typing import Any

from espnet3.errors import ClassError, EspnetError
from espnet3.redaction import scrubbed
from espnet3.specs.models import Argument, RunSpec
from espnet3.text import one_line
from espnet3.user_code.import_path import extend_import_path, import_hidden_modules
from espnet3.user_code.main_module import WORKER_VARIABLE, adopt, main_of
from espnet3.user_code.references import find_class
from espnet3.user_code.restoring import restored
from espnet3.worker.process_restore import enter_process_state, reenter_process_state


def enter_submitter_process(run: RunSpec) -> None:
    """Make this process look as the submitter's did, before anything of the user is imported.

    Raises:
        EspnetError: the working directory does not exist on this host, or something else that the
            submitter's process used.
    """
    _set_environment(run)
    enter_process_state(run)
    if run.process is not None:
        import_hidden_modules(run.process.hidden_modules)
    _enter_folder_and_path(run)
    adopt(main_of(run))


def reenter_submitter_process(run: RunSpec) -> None:
    """The same once the user's modules are imported, which may have changed it, as they did there.

    Raises:
        EspnetError: as `enter_submitter_process`.
    """
    _set_environment(run)
    _enter_folder_and_path(run)
    reenter_process_state(run)
    adopt(main_of(run))


def _set_environment(run: RunSpec) -> None:
    os.environ[WORKER_VARIABLE] = "1"
    for name, value in run.environment_variables.items():
        try:
            os.environ.setdefault(name, value)
        except (OSError, ValueError):
            raise EspnetError(f"{name!r}: cannot be an environment variable") from None


def _enter_folder_and_path(run: RunSpec) -> None:
    extend_import_path(first=run.sys_path)
    try:
        os.chdir(run.working_directory)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EspnetError(
            f"{run.working_directory!r}: the submitter's working directory cannot be entered here "
            f"({reason}); submit from a folder that all nodes share"
        ) from None


def rebuild(run: RunSpec) -> tuple[Any, Any]:
    """Import the runner class and construct the provider, and make both hold what they held.

    Returns:
        The runner class and a provider instance.

    Raises:
        ClassError: one of them cannot be imported, or the provider's constructor raised.
    """
    runner = find_class(run.runner)
    provider_class = find_class(run.provider.cls)
    reenter_submitter_process(run)
    for variable in run.assignments:
        where = f"{variable.target}.{variable.name}"
        setattr(find_class(variable.target), variable.name, restored_value(variable.value, where))
    where = str(run.provider.cls)
    args = [restored_value(argument, where) for argument in run.provider.args]
    kwargs = {
        name: restored_value(argument, where) for name, argument in run.provider.kwargs.items()
    }
    try:
        provider = provider_class(*args, **kwargs)
    except (Exception, SystemExit) as error:  # the constructor is the user's code
        words = one_line(scrubbed(str(error)))
        raise ClassError(
            where, f"cannot be constructed again: {type(error).__name__}: {words}"
        ) from error
    for name, argument in run.provider.attributes.items():
        # Past `__setattr__` and properties, which would not take what they made themselves.
        object.__setattr__(provider, name, restored_value(argument, f"{where}.{name}"))
    return runner, provider


def restored_value(argument: Argument, where: str) -> Any:
    """A value that the submitter's process held.

    Args:
        argument: as it was stored.
        where: what holds it, for errors.

    Raises:
        ClassError: it cannot be restored here.
    """
    try:
        return restored(argument)
    except ClassError:
        raise
    except Exception as error:  # classes of the user's make it
        words = one_line(scrubbed(str(error)))
        raise ClassError(
            where, f"holds what cannot be restored: {type(error).__name__}: {words}"
        ) from error
