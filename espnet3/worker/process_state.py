"""What a worker takes over of the submitter's process besides files, paths and classes.

`docs/process-state.md` says of each kind of state what becomes of it. Modules that only few runs
need are imported where something differs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from espnet3.errors import EspnetError
from espnet3.specs.models import ProcessState, RunSpec, WarningFilter
from espnet3.text import one_line

RESTARTED = "ESPNET3_RESTARTED"


def restart(run: RunSpec) -> None:
    """Start this process again where an interpreter must be told at its start what differs.

    The job's command has the flags, and most schedulers pass the environment on; so this happens
    in a shell of its own (`espnet3 run-shard`), and under schedulers that pass on nothing.
    """
    process = run.process
    if process is None or os.environ.pop(RESTARTED, None) is not None or not sys.executable:
        return
    words = sys.orig_argv
    module = words.index("-m") + 1 if "-m" in words else len(words)
    if module >= len(words) or not words[module].startswith("espnet3.worker"):
        return  # a program of somebody else that calls a worker's functions
    wanted, options = process.start_environment, words[1 : module - 1]
    flags = [] if {*process.flags} <= {*options} else process.flags
    if not flags and all(os.environ.get(name) == wanted[name] for name in wanted):
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    command = [sys.executable, *flags, *words[1:]]
    os.execve(sys.executable, command, {**os.environ, **wanted, RESTARTED: "1"})  # noqa: S606


def enter_process(run: RunSpec) -> None:
    """Before the user's modules are imported: what they may look at.

    Raises:
        EspnetError: this host lacks what the submitter's process used.
    """
    process = run.process
    if process is None:
        return
    main = process.main
    of_main = main is not None and any(
        (reference.module, reference.file) == (main.module, main.file)
        for reference in (run.runner, run.provider.cls)
    )
    initial = process.initial_argv if of_main else None
    sys.argv = [*(process.argv if initial is None else initial)]
    _take_over(process)


def settle_process(run: RunSpec) -> None:
    """After the user's modules were imported: as it was at the call, whatever they did to it.

    Raises:
        EspnetError: this host lacks what the submitter's process used.
    """
    process = run.process
    if process is None:
        return
    sys.argv = [*process.argv]
    _take_over(process)
    if process.start_method is not None:
        import multiprocessing

        multiprocessing.set_start_method(process.start_method, force=True)
    if process.warning_filters:
        _set_filters(process.warning_filters)


def _take_over(process: ProcessState) -> None:
    _set_environment(process.environment)
    if process.umask is not None:
        os.umask(process.umask & 0o777)
    if process.recursion_limit not in (None, sys.getrecursionlimit()):
        _set("the recursion limit", sys.setrecursionlimit, process.recursion_limit)
    if process.int_max_str_digits not in (None, sys.get_int_max_str_digits()):
        _set("the most digits of an int", sys.set_int_max_str_digits, process.int_max_str_digits)
    if process.locale:
        _set_locale(process.locale)


def _set(what: str, function: object, value: object) -> None:
    try:
        function(value)  # type: ignore[operator]
    except (OverflowError, RecursionError, ValueError) as error:
        words = one_line(str(error))
        raise EspnetError(f"{what} of the submitter, {value}, cannot be set: {words}") from None


def _set_environment(environment: Mapping[str, str | None]) -> None:
    for name, value in environment.items():
        try:
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        except (OSError, ValueError):
            raise EspnetError(f"{name!r}: cannot be an environment variable") from None
    time.tzset()  # TZ may be one of them


def _set_locale(wanted: Mapping[str, str]) -> None:
    import locale

    for name, value in wanted.items():
        category = getattr(locale, name, None)
        try:
            if not name.startswith("LC_") or not isinstance(category, int):
                raise locale.Error("there is no such category")
            if locale.setlocale(category) != value:
                locale.setlocale(category, value)
        except locale.Error as error:
            raise EspnetError(
                f"{name}={value}: the submitter's locale cannot be set on {os.uname().nodename} "
                f"({error}); install it there, or submit without locale.setlocale"
            ) from None


def _set_filters(filters: list[WarningFilter]) -> None:
    """The submitter's filters in their order; of the categories that are imported here."""
    import warnings

    warnings.resetwarnings()
    for entry in reversed(filters):
        category = _imported(entry)
        if category is not None:
            patterns = {"message": entry.message or "", "module": entry.module or ""}
            warnings.filterwarnings(
                entry.action, category=category, lineno=entry.lineno, **patterns  # type: ignore[arg-type]
            )  # fmt: skip


def _imported(entry: WarningFilter) -> type[Warning] | None:
    """The category; None where its module is not imported, so that nothing can be of it."""
    found: object = sys.modules.get(entry.category.module)
    for step in entry.category.qualname.split("."):
        found = getattr(found, step, None)
    return found if isinstance(found, type) and issubclass(found, Warning) else None
