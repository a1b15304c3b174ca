"""The commands `espnet3` and `espnet3-run`.

ESPnet's package is called `espnet3`, too; this module has a name of its own, and so can say where
that package is imported in place of ours (decision 0030).
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from typing import NoReturn

_FOLDER = os.path.dirname(os.path.abspath(__file__))
_OURS = os.path.join(_FOLDER, "espnet3")


def main() -> NoReturn:
    """Be the `espnet3` command, of this package whatever comes first on the path."""
    found = PathFinder.find_spec("espnet3")
    [*folders] = (found and found.submodule_search_locations) or [""]
    if os.path.realpath(folders[0]) != os.path.realpath(_OURS):
        _say(
            f"`import espnet3` finds ESPnet's {folders[0]} before this package, {_OURS}, so "
            f"scripts get ESPnet's runners and workers cannot start; put {_FOLDER} first on "
            "PYTHONPATH, or leave ESPnet's folder out of it and install it by `pip install -e`"
        )
        sys.path.insert(0, _FOLDER)
    import espnet3

    if not hasattr(espnet3, "lazy_names"):  # the file is not ours
        _say(
            f"ESPnet was installed over this package, in {_OURS}, which cannot work; uninstall "
            "both, then install espnet3, and ESPnet from its source by `pip install -e`"
        )
        sys.exit(1)
    from espnet3.cli.app import main as command

    command()


def _say(problem: str) -> None:
    sys.stderr.write(f"espnet3: {problem}\n")
