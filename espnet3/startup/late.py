"""Importing a module without what it imports for later, which takes a tenth of a worker's start.

orjson loads `dataclasses`, to know one when it sees it; that loads `inspect`, and with it `ast` and
`dis`, for the signature in the docstring of a new class. Workers make none. Nothing here is needed
when something goes wrong: where no file can be opened, no module can be imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any


class Late(ModuleType):
    """Stands in for a module: what is asked of it, it asks of the real one, imported then.

    Args:
        name: of the module.
        known: what it can say by itself.

    Example:
        >>> Late("string").digits
        '0123456789'
    """

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        vars(self).update(known)

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]  # asked while the other module is imported
        return getattr(importlib.import_module(self.__name__), name)


def import_for_worker() -> None:
    """Import what a worker needs of the standard library, and not what that could do without.

    To be called while there is one thread.
    """
    import_with("dataclasses", Late("inspect"))
    # uuid, which orjson loads, asks for the system at once.
    import_with("uuid", Late("platform", system=lambda: os.uname().sysname))


def import_with(name: str, late: Late) -> None:
    """Import a module with a stand-in for another one, unless one of the two is there already.

    Nobody else sees the stand-in: who imports the other module gets the real one. To be called
    while there is one thread.

    Example:
        >>> import_with("dataclasses", Late("inspect"))
        >>> "dataclasses" in sys.modules
        True
    """
    if name in sys.modules or late.__name__ in sys.modules:
        return
    sys.modules[late.__name__] = late
    try:
        importlib.import_module(name)
    finally:
        if sys.modules.get(late.__name__) is late:
            del sys.modules[late.__name__]
