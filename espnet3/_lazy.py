"""Public names that are imported only when first used, so that `import espnet3` costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_names(package: str, origins: dict[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__` (PEP 562) from a map of name to defining module.

    Type checkers read the imports beside it, under `TYPE_CHECKING`, and so know every name.

    Args:
        package: the package's `__name__`.
        origins: public name -> module that defines it, absolute.
    """

    def __getattr__(name: str) -> Any:
        try:
            origin = origins[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(origin), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
