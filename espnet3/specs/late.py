"""Importing `dataclasses` without `inspect`, which takes a tenth of a worker's start.

orjson loads `dataclasses`, to know one when it sees it; that loads `inspect`, and with it `ast`,
`dis` and `tokenize`, for the signature in the docstring of a new class. Workers make none.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class Late(ModuleType):
    """Stands in for a module: what is asked of it, it asks of the real one, imported then.

    Example:
        >>> Late("string").digits
        '0123456789'
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def import_dataclasses() -> None:
    """Import `dataclasses` with a stand-in for `inspect`, unless one of them is there already.

    Nobody else sees the stand-in: who imports `inspect` gets the real module. To be called while
    there is one thread.

    Example:
        >>> import_dataclasses()
        >>> "dataclasses" in sys.modules
        True
    """
    if "dataclasses" in sys.modules or "inspect" in sys.modules:
        return
    sys.modules["inspect"] = Late("inspect")
    try:
        importlib.import_module("dataclasses")
    finally:
        del sys.modules["inspect"]
