"""`python -m espnet3.finish RUN NUMBER …`: the program of a finisher's job."""

from __future__ import annotations

import sys

from espnet3.finish.job import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
