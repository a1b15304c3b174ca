"""Making a process look as another one did: the one place for the workers of all modes.

Modules that only few runs need are imported where something differs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from espnet3.errors import EspnetError
from espnet3.specs.models import ProcessState
from espnet3.specs.nested import WarningFilter
from espnet3.text import one_line


def take_over(
    process: ProcessState, *, argv: list[str] | None = None, imported: bool = True
) -> None:
    """Make this process hold what another one held, as far as the state says.

    Args:
        process: what the other one held; what is not set there stays as it is here.
        argv: `sys.argv`, where it is another one for now.
        imported: False before the user's modules are imported, which may set by themselves how
            children are started and which warnings raise.

    Raises:
        EspnetError: this host lacks what the other process used; says what.

    Example:
        >>> take_over(ProcessState(argv=["train.py", "--beam", "20"]))  # doctest: +SKIP
    """
    wanted = process.argv if argv is None else argv
    if sys.argv != wanted:
        sys.argv = [*wanted]
    _set_environment(process.environment)
    if process.umask is not None:
        os.umask(process.umask & 0o777)
    if process.recursion_limit not in (None, sys.getrecursionlimit()):
        _set("the recursion limit", sys.setrecursionlimit, process.recursion_limit)
    if process.int_max_str_digits not in (None, sys.get_int_max_str_digits()):
        _set("the most digits of an int", sys.set_int_max_str_digits, process.int_max_str_digits)
    if process.locale:
        _set_locale(process.locale)
    if not imported:
        return
    if process.start_method is not None:
        import multiprocessing

        if process.start_method != multiprocessing.get_start_method(allow_none=True):
            multiprocessing.set_start_method(process.start_method, force=True)
    if process.warning_filters:
        _set_filters(process.warning_filters)


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
