"""`python -m tests.chaos.dying_process STEP REPORT MODULE …`: MODULE, killed at a store operation.

It runs as `python -m MODULE …` would, until its operation number STEP, counted as in
`tests.support.mortal`; there SIGKILL ends it. If it lives, REPORT holds how many there were.
"""

from __future__ import annotations

import atexit
import runpy
import sys
from pathlib import Path

import pytest

from tests.support import mortal, stand_in_cluster


def main() -> None:
    """See above."""
    step, report, module = sys.argv[1:4]
    patch = pytest.MonkeyPatch()
    mortal.install(patch)
    if module != "espnet3.worker.supervisor":
        stand_in_cluster.install_dialect(patch)
    process = mortal.everybody = mortal.RealProcess(int(step))
    atexit.register(lambda: Path(report).write_text(str(process.operations)))
    del sys.argv[1:4]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
