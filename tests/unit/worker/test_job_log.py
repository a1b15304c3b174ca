"""Lines of a worker's own in its job's log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

SAY = """
import logging
from espnet3.worker.main import log_to_stderr
log_to_stderr()
logging.getLogger("espnet3.worker").info("here")
"""


@pytest.mark.parametrize(("zone", "offset"), [("IST-5:30", "+0530"), ("UTC", "+0000")])
def test_a_line_says_in_which_zone_its_time_is(zone: str, offset: str) -> None:
    """They are compared with records, which are in UTC, and with logs of other clusters."""
    environ = {**os.environ, "TZ": zone}
    done = subprocess.run(
        [sys.executable, "-c", SAY], env=environ, check=True, capture_output=True, text=True
    )
    line = re.fullmatch(r"(\S+ \S+) espnet3\.worker: here\n", done.stderr)
    assert line is not None, done.stderr
    assert line[1].endswith(offset)
    said = datetime.fromisoformat(line[1])
    assert abs(datetime.now(UTC) - said) < timedelta(minutes=10)
