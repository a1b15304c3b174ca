"""A stand-in for `nvidia-smi` on a host without GPUs: it lists the indices that it is made with."""

from __future__ import annotations

import os
from pathlib import Path

# As of the real one, which says nothing else where its format is `csv,noheader`.
_SCRIPT = """\
#!/bin/sh
test "$*" = "--query-gpu=index --format=csv,noheader" || exit 2
{answer}
"""


def install(folder: Path, n_gpus: int | None) -> dict[str, str]:
    """Make the command in a folder of its own.

    Args:
        folder: where to make that folder.
        n_gpus: how many it lists; None for one that fails, as without a driver.

    Returns:
        The environment in which it is found.
    """
    place = folder / "nvidia"
    place.mkdir()
    lines = " ".join(map(str, range(n_gpus or 0)))
    answer = "exit 9" if n_gpus is None else f"printf '%s\\n' {lines}"
    (place / "nvidia-smi").write_text(_SCRIPT.format(answer=answer))
    (place / "nvidia-smi").chmod(0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}
