"""Classes as import paths: where a worker finds a provider or runner again."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any

from espnet3.specs.errors import ClassError, one_line
from espnet3.specs.masking import scrubbed
from espnet3.specs.models import ClassReference
from espnet3.specs.paths import same_file

SCRIPT_MODULE = "__espnet3_main__"
WORKER_VARIABLE = "ESPNET3_IN_WORKER"


def refer_to(cls: object) -> ClassReference:
    """The reference by which a worker finds a class again.

    Args:
        cls: a class defined at the top level of a module or of the submitted script.

    Raises:
        ClassError: it is no class, or is defined in a function, a notebook or a prompt.

    Example:
        >>> str(refer_to(ClassReference))
        'espnet3.specs.models:ClassReference'
    """
    if not isinstance(cls, type):
        raise ClassError(one_line(repr(cls), 80), "is no class; define a class in a module")
    name = f"{cls.__module__}.{cls.__qualname__}"
    if "<locals>" in cls.__qualname__:
        raise ClassError(
            name, "is defined inside a function; move it to the top level of a module, so that a "
            "worker can import it"
        )  # fmt: skip
    if cls.__module__ != "__main__":
        file = _script(cls)
        module = "__main__" if file else cls.__module__  # as the submitting script called it
        return ClassReference(module=module, qualname=cls.__qualname__, file=file)
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return ClassReference(module=spec.name, qualname=cls.__qualname__)
    file = getattr(main, "__file__", None)
    if file is None or not os.path.isfile(file) or "ipykernel" in os.path.basename(file):
        raise ClassError(
            name, "is defined in a notebook or a prompt; move it to a module or a script, so that "
            "a worker can import it"
        )  # fmt: skip
    return ClassReference(module="__main__", qualname=cls.__qualname__, file=os.path.abspath(file))


def _script(cls: type) -> str | None:
    """The script's file, where a worker or a resume loaded the class from one."""
    if cls.__module__ != SCRIPT_MODULE:
        return None
    return getattr(sys.modules[SCRIPT_MODULE], "__file__", None)


def find_class(reference: ClassReference) -> Any:
    """Import a class by its reference.

    Raises:
        ClassError: the module or the class is not there, or importing it failed; the original
            exception is the cause.
    """
    try:
        found: Any = _module(reference)
        for step in reference.qualname.split("."):
            found = getattr(found, step)
    except (Exception, SystemExit) as error:  # importing runs the user's code
        raise ClassError(
            str(reference),
            f"cannot be imported: {type(error).__name__}: {one_line(scrubbed(str(error)))}",
        ) from error
    return found


def load_script(reference: ClassReference) -> None:
    """Make the module of a submitted script known under the name that workers pickle it by.

    Raises:
        ClassError: the script cannot be imported.
    """
    if reference.file is None or SCRIPT_MODULE in sys.modules:
        return
    os.environ[WORKER_VARIABLE], before = "1", os.environ.get(WORKER_VARIABLE)  # must not submit
    try:
        find_class(reference)
        sys.modules.setdefault(SCRIPT_MODULE, _module(reference))
    finally:
        if before is None:
            del os.environ[WORKER_VARIABLE]


def _module(reference: ClassReference) -> ModuleType:
    if reference.file is None:
        return importlib.import_module(reference.module)
    main = sys.modules.get("__main__")
    if getattr(main, "__file__", None) and same_file(main.__file__, reference.file):  # type: ignore[union-attr,arg-type]
        return main  # type: ignore[return-value]
    loaded = sys.modules.get(SCRIPT_MODULE)
    if loaded is not None and same_file(str(loaded.__file__), reference.file):
        return loaded
    # Not as "__main__", so that the script's `if __name__ == "__main__"` part does not run again.
    spec = importlib.util.spec_from_file_location(SCRIPT_MODULE, reference.file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{reference.file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT_MODULE] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[SCRIPT_MODULE]
        raise
    return module


def require_static_forward(runner: type[Any]) -> None:
    """Check that a runner class defines `forward` as a static method.

    Raises:
        ClassError: it does not, so a worker could not call it without an instance.
    """
    # As inspect.getattr_static, whose module takes a tenth of a worker's start.
    found = (vars(base)["forward"] for base in runner.__mro__ if "forward" in vars(base))
    if not isinstance(next(found, None), staticmethod):
        raise ClassError(
            runner.__qualname__, "forward must be a @staticmethod, so that a worker can call it"
        )
