"""`python -m espnet3.worker RUN NUMBER`: compute the shards of one task."""

import gc
import sys

# What is imported stays: looking through it for garbage, then and at the exit, costs a tenth of a
# worker's start.
gc.disable()
from espnet3.worker.main import main, settle_streams  # noqa: E402

gc.freeze()
gc.enable()

code = main(sys.argv[1:])
settle_streams()
sys.exit(code)
