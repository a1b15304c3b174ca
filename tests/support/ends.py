"""The ends of runs that finish themselves, as their files tell them. For tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from espnet3.run import Run
from espnet3.specs import layout
from tests.support.helpers import wait_for


def end_of(run: Run, number: int = 1, seconds: float = 120) -> Any:
    """What `finished.json` says, once it is there; nobody touches anything meanwhile."""
    path = Path(run.run_dir, layout.finished(number))
    wait_for(path.exists, "the run does not end", seconds)
    return json.loads(path.read_bytes())


def results_of(end: Any) -> list[Any]:
    """The results in the file that an end names."""
    lines = Path(end["results"]).read_text().splitlines()
    return [json.loads(line)["result"] for line in lines]
