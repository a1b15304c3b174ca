"""Classes as import paths: where a worker finds a provider or runner again."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

from espnet3.errors import ClassError
from espnet3.redaction import scrubbed
from espnet3.specs.models import ClassReference
from espnet3.text import one_line
from espnet3.user_code.main_module import (
    MAIN,
    SCRIPT_MODULE,
    describe_main,
    load_script,
)
from espnet3.user_code.main_module import WORKER_VARIABLE as WORKER_VARIABLE


def refer_to(cls: object) -> ClassReference:
    """The reference by which a worker finds a class again.

    Args:
        cls: a class defined at the top level of a module or of the submitted script.

    Raises:
        ClassError: it is not a class, or is defined in a function, a notebook or a prompt.

    Example:
        >>> str(refer_to(ClassReference))
        'espnet3.specs.nested:ClassReference'
    """
    if not isinstance(cls, type):
        raise ClassError(one_line(repr(cls), 80), "is not a class; define a class in a module")
    return _refer_to(cls, lambda: _namespace(cls))


def refer_to_function(function: Any) -> ClassReference:
    """The reference by which a worker finds a function again, one in C too (`len`, `str.lower`).

    Raises:
        ClassError: as `refer_to`; it may be a lambda, too.
    """
    if isinstance(function, FunctionType):
        return _refer_to(function, lambda: function.__globals__)
    owner = getattr(function, "__objclass__", function)
    reference = ClassReference(
        module=getattr(owner, "__module__", None) or "", qualname=function.__qualname__
    )
    try:
        found = find_class(reference)
    except ClassError:
        found = None
    if found is not function:
        raise ClassError(one_line(repr(function), 80), "is not found by its name in a module")
    return reference


def _refer_to(
    cls: type[Any] | FunctionType, namespace: Callable[[], Mapping[str, Any]]
) -> ClassReference:
    name = f"{cls.__module__}.{cls.__qualname__}"
    if "<locals>" in cls.__qualname__:
        raise ClassError(
            name, "is defined inside a function; move it to the top level of a module, so that a "
            "worker can import it"
        )  # fmt: skip
    if cls.__module__.startswith(SCRIPT_MODULE):  # a resume loaded it from the script
        main = describe_main(vars(sys.modules[cls.__module__]))
    elif cls.__module__ == MAIN:
        main = describe_main(namespace())
    else:
        return ClassReference(module=cls.__module__, qualname=cls.__qualname__)
    if main is None:
        raise ClassError(
            name, f"is defined {_where()}; move it to a module or a script, so that a worker can "
            "import it"
        )  # fmt: skip
    return ClassReference(module=main.module, qualname=cls.__qualname__, file=main.file)


def _namespace(cls: type) -> Mapping[str, Any]:
    """The variables of the module that defined a class of `__main__`.

    What runs a script for another program, such as `python -m cProfile`, may run it in variables
    that are not those of the main module; its functions know them.
    """
    main = vars(sys.modules[MAIN])
    found: Any = main.get(cls.__qualname__.partition(".")[0])
    for step in cls.__qualname__.split(".")[1:]:
        found = getattr(found, step, None)
    if found is cls:
        return main
    for value in vars(cls).values():
        function = getattr(value, "__func__", value)
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        variables = getattr(function, "__globals__", {})
        if variables.get("__name__") == MAIN:
            return dict(variables)
    return main


def _where() -> str:
    """What runs in a main module that no file has, for a person."""
    file = getattr(sys.modules[MAIN], "__file__", None) or "<stdin>"
    if "ipykernel" not in file and file != "<stdin>":
        return f"in {file}, which is not there any more"
    if hasattr(sys, "ps1") or sys.argv[:1] not in (["-c"], ["-"], [""]):
        return "in a notebook or a prompt"
    return "on the command line (python -c)" if sys.argv[0] == "-c" else "on standard input"


def find_class(reference: ClassReference) -> Any:
    """Import a class by its reference.

    Raises:
        ClassError: the module or the class is not there, or importing it failed; the original
            exception is the cause.
    """
    try:
        found: Any = _module(reference)
        for step in filter(None, reference.qualname.split(".")):  # a module itself has none
            found = getattr(found, step)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise ClassError(
            str(reference),
            f"cannot be imported: {type(error).__name__}: {one_line(scrubbed(str(error)))}",
        ) from error
    return found


def _module(reference: ClassReference) -> ModuleType:
    if reference.file is None:
        return importlib.import_module(reference.module)
    return load_script(reference.file)


def require_static_forward(runner: type[Any]) -> None:
    """Check that a runner class defines `forward` as a static method, or a class method.

    Raises:
        ClassError: it does not, so a worker could not call it without an instance.
    """
    # As inspect.getattr_static, whose module takes a tenth of a worker's start.
    found = (vars(base)["forward"] for base in runner.__mro__ if "forward" in vars(base))
    if not isinstance(next(found, None), staticmethod | classmethod):
        raise ClassError(
            runner.__qualname__,
            "forward must be a @staticmethod (or @classmethod), so that a worker can call it",
        )
