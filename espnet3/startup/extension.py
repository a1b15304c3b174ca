"""pydantic_core's compiled module alone, as a worker loads it: without the package around it.

The package describes its schemas for type checkers, in Python, and loads typing_extensions for
that: a third of a worker's start, and nothing that validates or serializes needs it. What uses the
compiled module imports it as `from pydantic_core._pydantic_core import …`, which finds it where
`load` has put it, and imports the package where `load` was not called.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from importlib.machinery import PathFinder

NAME = "pydantic_core._pydantic_core"


def load() -> None:
    """Load the compiled module by its own name, unless it or its package is there already.

    To be called before anything imports the models. Where it fails, the package is imported later,
    as ever. User code may import pydantic afterwards, which takes the same compiled module.

    Example:
        >>> load()
        >>> NAME in sys.modules or "pydantic_core" in sys.modules
        True
    """
    if NAME in sys.modules or "pydantic_core" in sys.modules:
        return
    with contextlib.suppress(Exception):
        package = importlib.util.find_spec("pydantic_core")
        found = package and PathFinder.find_spec(NAME, package.submodule_search_locations)
        if found and found.loader:
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
            sys.modules[NAME] = module
