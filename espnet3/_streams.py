"""Standard output of processes that run `forward`."""

from __future__ import annotations

import sys


def print_by_line() -> None:
    """Hand each printed line over at once, also to a file or a pipe.

    What a job's log lacks when the job is killed is then at most a line that was not ended. Forked
    children have it from their parent. Standard error is like that already.

    Example:
        >>> print_by_line()
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # there may be none, or another's
    if reconfigure is not None:
        reconfigure(line_buffering=True)
