"""What is said where ESPnet was installed over this package: both are called `espnet3`."""

from __future__ import annotations

import warnings

ADVICE = "uninstall both, then install espnet3, and ESPnet from its source by `pip install -e`"


def problem(folder: str) -> str:
    """What is wrong with a folder that holds files of both.

    >>> problem("/env/espnet3")
    "/env/espnet3 holds ESPnet's files and this package's, ...; uninstall both, then ..."
    """
    return (
        f"{folder} holds ESPnet's files and this package's, whichever of the same name was "
        f"installed last; {ADVICE}"
    )


def warn(folder: str) -> None:
    """Warn whoever imports espnet3."""
    warnings.warn(problem(folder), UserWarning, stacklevel=3)
