"""`python -m espnet3.worker RUN NUMBER`: compute the shards of one task."""

import gc
import sys

from espnet3.startup import stand_in
from espnet3.worker import models


def start() -> int:
    """Import the worker, in as little time as it takes, and be it."""
    # What is imported stays: looking through it for garbage, here and once more at the exit, would
    # cost a tenth of the start.
    gc.disable()
    with stand_in.parts_in_c():
        models.load()
        import espnet3.user_code.instances  # noqa: F401  # as the user's classes do, later
        from espnet3.worker.main import main, prepare_streams

    gc.freeze()
    gc.enable()
    code = main(sys.argv[1:])
    prepare_streams()
    return code


def begin() -> int:
    """Be the worker; where it cannot even be loaded, say so on one line."""
    try:
        return start()
    except (ImportError, MemoryError, OSError) as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        sys.stderr.write(f"espnet3.worker: cannot be loaded here: {words.rstrip(': ')}\n")
        return 1


sys.exit(begin())
