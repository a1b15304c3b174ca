"""`python -m benchmarks.child MODULE:FUNCTION ARGUMENTS`: see `Bench.child`."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path


def main(target: str, arguments: str) -> None:
    module, _, name = target.partition(":")
    figures = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    # Not getrusage: its peak is inherited from the process that this one was forked from.
    found = re.search(r"VmHWM:\s*([0-9]+) kB", Path("/proc/self/status").read_text())
    if found is not None:
        figures["peak"] = int(found[1]) / 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
