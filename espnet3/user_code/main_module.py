"""The submitter's main module: in a worker, in a resume, and where pickled results are read.

What a script defines is `__main__.Name` to pickle and to the children that `multiprocessing`
starts. A worker has the script stand for its own main module, as such children do, and does not run
what is below `if __name__ == "__main__"`. Every other process keeps its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import FunctionType, ModuleType
from typing import Any
from zipimport import ZipImportError, zipimporter

from espnet3._structs import Struct
from espnet3.specs.models import ClassReference, RunSpec
from espnet3.storage.paths import same_file

MAIN = "__main__"
CHILD = "__mp_main__"  # what multiprocessing calls the main module in its children
SCRIPT_MODULE = "__espnet3_main__"  # what a script is called where it is not the main module
WORKER_VARIABLE = "ESPNET3_IN_WORKER"
_OWN = "espnet3.worker"
_loading = threading.RLock()
_loaded: dict[str, ModuleType] = {}
_retired: list[ModuleType] = []  # main modules that gave way, whose code still runs


class MainModule(Struct):
    """The main module of the process that submitted a run.

    Attributes:
        reference: where it is found; its `qualname` is empty.
        argv: what it saw as `sys.argv`; None where that is not known.
    """

    reference: ClassReference
    argv: list[str] | None = None


def main_of(run: RunSpec) -> MainModule | None:
    """The main module of the process that submitted a run; None where no file has it."""
    process = run.process
    # The script of the run's classes: another program may have run it, and be the main module.
    files = (reference.file for reference in (run.runner, run.provider.cls))
    file = next(filter(None, files), None)
    if process is None:  # version 1
        return None if file is None else MainModule(_script(file))
    reference = process.main if file is None else _script(file)
    argv = process.argv if process.initial_argv is None else process.initial_argv
    return None if reference is None else MainModule(reference, argv)


def describe_main(namespace: Mapping[str, Any] | None = None) -> ClassReference | None:
    """Where another process finds a main module again; None for a notebook, a prompt and the like.

    Args:
        namespace: the module's variables; those of this process's main module where unset.
    """
    variables = vars(sys.modules[MAIN]) if namespace is None else namespace
    name = getattr(variables.get("__spec__"), "name", MAIN)
    if name != MAIN:  # python -m package.module
        return ClassReference(module=name, qualname="")
    given = variables.get("__file__")
    if given is None or "ipykernel" in os.path.basename(given):
        return None
    file = os.path.abspath(str(given))
    folder, base = os.path.split(file)
    if base == "__main__.py" and os.path.isfile(folder):
        return _script(folder)  # a zip archive
    return _script(file) if os.path.isfile(file) else None


def _script(file: str) -> ClassReference:
    return ClassReference(module=MAIN, qualname="", file=file)


@contextlib.contextmanager
def importing_as(argv: list[str] | None) -> Iterator[None]:
    """For what imports the submitter's modules: they see its command line, and must not submit."""
    before = sys.argv, os.environ.get(WORKER_VARIABLE)
    os.environ[WORKER_VARIABLE] = "1"
    if argv is not None:
        sys.argv = [*argv]
    try:
        yield
    finally:
        sys.argv = before[0]
        if before[1] is None:
            os.environ.pop(WORKER_VARIABLE, None)


def load_main(main: MainModule) -> ModuleType:
    """Import the submitter's main module, unless it is this process's own, or was imported.

    Raises:
        Exception: whatever the import raises.
    """
    with _loading, importing_as(main.argv):
        if main.reference.file is not None:
            return load_script(main.reference.file)
        if describe_main() == main.reference:
            return sys.modules[MAIN]
        module = importlib.import_module(main.reference.module)
        if _gives_way():
            _give_way(module)
        return module


def load_script(file: str) -> ModuleType:
    """The module that a script is, as `load_main`."""
    with _loading:
        here = describe_main()
        if here is not None and here.file is not None and same_file(here.file, file):
            return sys.modules[MAIN]
        place = os.path.realpath(file)  # the same by any name
        if place not in _loaded:
            _loaded[place] = _executed(file)
        return _loaded[place]


def _executed(file: str) -> ModuleType:
    """Run a script as a module, not as `__main__`; in a worker it is the main module then."""
    to_be_main = _gives_way()
    name = CHILD if to_be_main else SCRIPT_MODULE + (f"_{len(_loaded)}" if _loaded else "")
    module = ModuleType(name)
    get_code = _described(module, file)
    before = sys.modules[MAIN]
    sys.modules[name] = module
    if to_be_main:
        sys.modules[MAIN] = module
    try:
        with importing_as(None):
            exec(get_code(), vars(module))  # noqa: S102 (it was submitted)
    except BaseException:
        del sys.modules[name]
        sys.modules[MAIN] = before
        raise
    if to_be_main:
        _retired.append(before)
        module.__name__ = MAIN
        _rename(vars(module))
    return module


def _described(module: ModuleType, file: str) -> Callable[[], Any]:
    """Give a new module the variables that Python gives to a main module; what reads its code."""
    try:
        archive: Any = zipimporter(file)
    except ZipImportError:
        loader = SourceFileLoader(module.__name__, file)  # whatever its name ends with
        vars(module).update(__file__=file, __loader__=loader, __cached__=None)
        return lambda: loader.get_code(module.__name__)
    # Children cannot import it, and know by this spec that they need not.
    path, spec = os.path.join(file, f"{MAIN}.py"), ModuleSpec(MAIN, archive)
    vars(module).update(__file__=path, __loader__=archive, __spec__=spec, __package__="")
    return lambda: archive.get_code(MAIN)


def _rename(namespace: Mapping[str, Any]) -> None:
    """Have what a script defined belong to `__main__`, by which name it is pickled."""
    for value in [*namespace.values()]:
        thing = getattr(value, "__func__", value) if type(value) in _METHODS else value
        if isinstance(thing, type | FunctionType):
            if thing.__module__ == CHILD:
                with contextlib.suppress(AttributeError, TypeError):  # a metaclass forbids it
                    thing.__module__ = MAIN
                    _rename(vars(thing) if isinstance(thing, type) else {})
            continue
        with contextlib.suppress(AttributeError):  # what `functools.wraps` made like a function
            own = object.__getattribute__(thing, "__dict__")
            if type(own) is dict and own.get("__module__") == CHILD:
                own["__module__"] = MAIN


_METHODS = (staticmethod, classmethod)


def adopt(main: MainModule | None) -> None:
    """In a worker: have the submitter's main module stand for this process's own.

    A script that no class of the run is from may submit when it is imported, and need long. It is
    imported when something of it is asked for, as unpickling does. To be called before the user's
    modules are imported and again after that.
    """
    if main is None or not _gives_way():
        return
    module = sys.modules.get(main.reference.module) if main.reference.file is None else None
    if module is not None:
        _give_way(module)
    elif not isinstance(sys.modules[MAIN], _Later):
        _give_way(_Later(sys.modules[MAIN], main))


def _gives_way() -> bool:
    """Whether this process's main module is the worker's own."""
    spec = getattr(sys.modules[MAIN], "__spec__", None)
    return f"{getattr(spec, 'name', '')}.".startswith(f"{_OWN}.")


def _give_way(module: ModuleType) -> None:
    _retired.append(sys.modules[MAIN])
    sys.modules[MAIN] = module
    if not isinstance(module, _Later):
        sys.modules[CHILD] = module


class _Later(ModuleType):
    """Stands for a main module that is imported once something that it defines is asked for."""

    def __init__(self, own: ModuleType, main: MainModule) -> None:
        super().__init__(MAIN)
        # Children of this process see the worker's own, which they do not import.
        vars(self).update(__file__=own.__file__, __spec__=own.__spec__, __later__=main)

    def __getattr__(self, name: str) -> Any:
        main: MainModule = vars(self)["__later__"]
        if name.startswith("__") or not _mentions(main.reference, name):
            raise AttributeError(f"module {MAIN!r} has no attribute {name!r}")
        return getattr(load_main(main), name)


def _mentions(reference: ClassReference, name: str) -> bool:
    """Whether a module's source has a name at all: libraries ask main modules for all sorts."""
    file: str | None = reference.file
    if file is None:
        from importlib.util import find_spec

        spec = find_spec(reference.module)
        file = spec.origin if spec is not None else None
    try:
        with open(file or "", "rb") as source:
            found = re.search(rb"(?<!\w)%b(?!\w)" % re.escape(name.encode()), source.read())
    except OSError:
        return False
    return found is not None or not (file or "").endswith(".py")


def name_here(main: MainModule, module: str) -> str:
    """What a module is called here that the processes of a run called `module`.

    Args:
        main: the main module of the process that submitted it.
        module: a name that stands in a pickle.

    Raises:
        Exception: whatever importing the main module raises.
    """
    reference = main.reference
    if module not in (MAIN, CHILD, SCRIPT_MODULE, reference.module):
        return module
    with _loading:
        argv = None if main.argv is None else tuple(main.argv)
        return _name_here(reference.module, reference.file, argv)


@functools.cache
def _name_here(module: str, file: str | None, argv: tuple[str, ...] | None) -> str:
    reference = ClassReference(module=module, qualname="", file=file)
    found = load_main(MainModule(reference, None if argv is None else [*argv]))
    return MAIN if found is sys.modules[MAIN] else found.__name__
