"""What `_target_` names: found on the import path and called, with errors of one line."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

from espnet3.config.model import did_you_mean
from espnet3.errors import ClassError, ConfigError
from espnet3.text import one_line


def find_target(target: Any, where: str) -> Any:
    """Import what an import path names.

    Args:
        target: the import path, such as `package.module.Name`.
        where: the value's name in the config file, for errors.

    Raises:
        ConfigError: there is no such module or name.
        ClassError: importing the module raised; the original exception is the cause.
    """
    if not isinstance(target, str) or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(
            where, f"{one_line(repr(target), 80)} is not an import path such as module.Name"
        )
    if "." not in target:
        raise ConfigError(where, f"{target!r} names no module; write module.{target}")
    module, names = _import_longest(target, where)
    found: Any = module
    for name in names:
        if not hasattr(found, name):
            public = [
                n
                for n, value in getattr(found, "__dict__", {}).items()
                if n[0] != "_" and callable(value)
            ]
            owner = module.__name__ if found is module else f"{module.__name__}.{found.__name__}"
            hint = _hint(name, public)
            raise ConfigError(where, f"{owner} has no {name}{hint}")
        found = getattr(found, name)
    return found


def _import_longest(target: str, where: str) -> tuple[ModuleType, list[str]]:
    """The innermost module of an import path, and the names that are left.

    `pkgutil.resolve_name` takes a module whose import fails for a name that its package lacks.
    """
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:length])
        try:
            return importlib.import_module(name), parts[length:]
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing != name and not name.startswith(f"{missing}."):
                raise _import_failed(name, error) from error
        except Exception as error:  # importing runs the user's code
            raise _import_failed(name, error) from error
    raise ConfigError(
        where,
        f"there is no module {parts[0]} in this folder, beside the config file, or installed",
    )


def _import_failed(name: str, error: Exception) -> ClassError:
    place = _last_line(error)
    return ClassError(
        name, f"cannot be imported: {type(error).__name__}: {one_line(str(error))}{place}"
    )


def call_target(target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> Any:
    """Call a class or function with what its section says.

    Args:
        target: the class or function.
        args: positional arguments that are not from the section.
        kwargs: the section's other keys.
        where: the section's name, for errors.

    Raises:
        ConfigError: it takes no such argument, or needs one more; names it.
        ClassError: it raised; the original exception is the cause.
    """
    if not callable(target):
        raise ConfigError(f"{where}._target_", f"{one_line(repr(target), 80)} cannot be called")
    name = f"{target.__module__}.{target.__qualname__}"
    _check_arguments(target, name, args, kwargs, where)
    try:
        return target(*args, **kwargs)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error.field}", str(error).partition(": ")[2]) from error
    except Exception as error:
        place = _last_line(error)
        raise ClassError(
            name, f"raised {type(error).__name__}: {one_line(str(error))}{place}"
        ) from error


def _check_arguments(
    target: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str
) -> None:
    """Check that a call would bind, so that a wrong key is named as such."""
    is_class = isinstance(target, type)
    try:
        # A provider's __new__ takes anything; its __init__ says what it means.
        signature = inspect.signature(target.__init__ if is_class else target)
    except (TypeError, ValueError):
        return
    parameters = list(signature.parameters.values())[1 if is_class else 0 :]
    signature = signature.replace(parameters=parameters)
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    taken = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    valid = taken[len(args) :]
    for key in kwargs:
        if key not in valid and not open_ended:
            raise ConfigError(f"{where}.{key}", f"{name} takes no such argument{_hint(key, valid)}")
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(where, f"{name}: {error}") from None


def _hint(word: str, valid: Iterable[str]) -> str:
    names = list(valid)
    return one_line(did_you_mean(word, names), 200) if names else ""


def _last_line(error: Exception) -> str:
    """Where the user's code raised."""
    trace = error.__traceback__
    frame = None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<") and file != __file__:
            frame = (file, trace.tb_lineno)
        trace = trace.tb_next
    return f" ({frame[0]}, line {frame[1]})" if frame else ""
