"""`python -m tests.support.rebuilding`: rebuilds each run on standard input as a worker does.

Each in a process of its own, forked from this one, which has imported nothing of the user's. It
prints what `forward` gives for item 0.
"""

from __future__ import annotations

import os
import sys
import traceback

from espnet3.specs.models import RunSpec, decode
from espnet3.worker.rebuild import rebuild


def main() -> None:
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            try:
                runner, provider = rebuild(decode(RunSpec, line.encode(), "run.json"))
                print(runner.forward(0, **provider.make_worker_setup_fn()()), flush=True)
            except BaseException:  # noqa: BLE001 (whatever it is, the test shows it)
                print(repr(traceback.format_exc()), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
