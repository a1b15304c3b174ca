"""`python -m espnet3.worker RUN NUMBER`: compute the shards of one task."""

import sys

from espnet3.worker.main import main, settle_streams

code = main(sys.argv[1:])
settle_streams()
sys.exit(code)
