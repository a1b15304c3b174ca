"""The `espnet3` command in this process, for tests of what it prints."""

from __future__ import annotations

import contextlib
import io
from typing import NamedTuple

from espnet3.cli.app import run


class Said(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str


def said(*words: str) -> Said:
    """Run a command line and catch what it prints."""
    out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    out.seek(0)
    return Said(code, out.read(), err.getvalue())
