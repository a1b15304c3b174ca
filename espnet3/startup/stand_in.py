"""Modules in place of others, for as long as a third one is imported.

orjson imports dataclasses and uuid, to know such values when it sees them. dataclasses imports
inspect, and with it ast and dis, for classes that are still to be made; uuid compiles nine patterns
of platform's to ask for the system's name. Together that was a tenth of a worker's start.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any


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


def _import_without(unneeded: str, module: str, **known: Any) -> None:
    """Import a module that gets another one only once it asks that for more than is known."""
    if unneeded in sys.modules or module in sys.modules:
        return
    stand_in = ModuleType(unneeded)
    stand_in.__dict__.update(
        known, __getattr__=lambda name: getattr(importlib.import_module(unneeded), name)
    )
    with in_place(stand_in):
        importlib.import_module(module)
