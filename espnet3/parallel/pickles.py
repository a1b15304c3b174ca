"""What travels between the caller and Dask workers, as bytes.

What the script that is run has defined travels with its code, and with the values of the globals
that it uses: a worker's `__main__` is another one, or lacks what the script's last part set. There
it gets its name back, or no pool of processes could find a function of the script.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle

_MAIN = "__main__"
_MAKERS = frozenset({"_make_function", "_make_skeleton_class", "_make_skeleton_enum"})
_adopting: ModuleType | None = None


def dumps(value: Any) -> bytes:
    """Pickle as Dask does; its own function logs a traceback where it cannot, and nobody reads it.

    Example:
        >>> loads(dumps([1, "two"]))
        [1, 'two']
    """
    pickled = _MAIN.encode()
    with contextlib.suppress(Exception):  # pickling runs the user's code
        pickled = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    if _MAIN.encode() in pickled:
        pickled = cloudpickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return pickled


def loads(pickled: bytes) -> Any:
    """Unpickle; on a worker, what the caller's script defined is then found in its `__main__`."""
    if _adopting is None or _MAIN.encode() not in pickled:
        return pickle.loads(pickled)  # noqa: S301 (between processes of one user)
    unpickler = _Adopting(io.BytesIO(pickled))
    value = unpickler.load()
    for made in unpickler.made:
        name = getattr(made, "__qualname__", "")
        if getattr(made, "__module__", None) == _MAIN and name.isidentifier():
            setattr(_adopting, name, made)
    return value


def adopt_into(main: ModuleType) -> None:
    """From now on, what other scripts defined gets its name in this module, this process's main."""
    global _adopting
    _adopting = main
    sys.modules[_MAIN] = main


class _Adopting(pickle.Unpickler):
    """Notes the functions and classes that cloudpickle makes of their code."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.made: list[Any] = []

    def find_class(self, module: str, name: str, /) -> Any:
        """As pickle does; around what makes functions and classes, a note."""
        found = super().find_class(module, name)
        if name not in _MAKERS or not module.startswith("cloudpickle"):
            return found
        make: Callable[..., Any] = found

        def noting(*args: Any) -> Any:
            made = make(*args)
            self.made.append(made)
            return made

        return noting
