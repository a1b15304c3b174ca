"""Whether ESPnet, whose package is called `espnet3` too, lets this one work."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import espnet3
from espnet3._overwritten import problem

_OURS = os.path.dirname(os.path.abspath(espnet3.__file__))
_ASK = "import importlib.util; print(importlib.util.find_spec('espnet3').origin)"


def espnet_here() -> tuple[str, bool] | None:
    """What is to be said of ESPnet in this environment, and whether that is fine.

    None where it is not installed.

    Example:
        >>> espnet_here() is None
        True
    """
    theirs = _folder_of("espnet3.systems")
    if theirs is not None and os.path.realpath(theirs) == os.path.realpath(_OURS):
        return problem(_OURS), False
    # By a process of its own: what workers will find is not what this one has found.
    asked = subprocess.run(
        [sys.executable, "-P", "-c", _ASK], capture_output=True, text=True, check=False
    )
    first = os.path.dirname(asked.stdout.strip())
    if asked.returncode == 0 and os.path.realpath(first) != os.path.realpath(_OURS):
        return (
            f"{first} is found before {_OURS}, so no worker can start; put "
            f"{os.path.dirname(_OURS)} first on PYTHONPATH, or leave ESPnet's folder out of it and "
            "install it by `pip install -e`",
            False,
        )
    return None if theirs is None else (f"{theirs}, found beside this package", True)


def _folder_of(module: str) -> str | None:
    """The folder of the package that a module is in; None where there is no such module."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        return None
    return os.path.dirname(next(iter(found.submodule_search_locations)))
