"""Modules in place of others, for as long as a third one is imported.

orjson imports dataclasses and uuid, to know such values when it sees them. dataclasses imports
inspect, and with it ast and dis, for classes that are still to be made; uuid compiles nine patterns
of platform's to ask for the system's name. Together that was a tenth of a worker's start. And
pickle, and up to Python 3.11 datetime, define in Python what they then take from C in its place.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

_IN_C = {"datetime": "_datetime", "pickle": "_pickle"}


@contextlib.contextmanager
def in_place(module: ModuleType) -> Iterator[None]:
    """While a block runs, whoever imports a module of that name gets this one.

    To be called while there is one thread.

    Example:
        >>> with in_place(ModuleType("readline")):
        ...     "readline" in sys.modules
        True
    """
    sys.modules[module.__name__] = module
    try:
        yield
    finally:
        if sys.modules.get(module.__name__) is module:  # and not what a site's own thread imported
            del sys.modules[module.__name__]


def load_for_orjson() -> None:
    """Import what orjson imports, without what that needs later or never.

    To be called before anything else imports it, while there is one thread.

    Example:
        >>> load_for_orjson()
        >>> {"dataclasses", "uuid"} <= sys.modules.keys()
        True
    """
    _import_without("inspect", "dataclasses")
    _import_without("platform", "uuid", system=lambda: os.uname().sysname)


@contextlib.contextmanager
def parts_in_c() -> Iterator[None]:
    """While a block runs, modules of which a worker needs only what is in C are that alone.

    Their classes are those of the whole modules, which they import once they are asked for more.
    To be called while there is one thread.

    Example:
        >>> with parts_in_c():
        ...     from datetime import datetime
        >>> import datetime as whole
        >>> whole.datetime is datetime
        True
    """
    with contextlib.ExitStack() as stack:
        for whole, part in _IN_C.items():
            if whole not in sys.modules:
                with contextlib.suppress(ImportError):  # not every Python has it
                    known = vars(import_module(part))
                    stack.enter_context(in_place(_that_knows(whole, known)))
        yield


def _import_without(unneeded: str, module: str, **known: Any) -> None:
    """Import a module without another one of which it uses what is known."""
    if unneeded in sys.modules or module in sys.modules:
        return
    with in_place(_that_knows(unneeded, known)):
        import_module(module)


def _that_knows(name: str, known: Mapping[str, Any]) -> ModuleType:
    """A module that gets another one of its name only once it is asked for more than is known."""
    module = ModuleType(name)

    def ask(key: str) -> Any:
        whole = None if key.startswith("__") else import_module(name)
        if whole is None or whole is module:  # which is still in its place
            raise AttributeError(f"module {name!r} has no attribute {key!r}", name=key, obj=module)
        return getattr(whole, key)

    module.__dict__.update({**known, "__name__": name, "__getattr__": ask})
    return module
