"""Runs that finish themselves, on a real Slurm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from tests.support.helpers import TINY, wait_for
from tests.support.slurm_cluster import SlurmCluster
from tests.support.troubles import Troubled, Troubles

pytestmark = pytest.mark.slurm
SMALL = {"memory": "100MB"}  # of the finisher


def submit(folder: Path, n_items: int, trouble: dict[str, Any], **keys: Any) -> Run:
    """Submit `Troubled` with a finisher that notes what it tells."""
    finish = {"notify": f'echo "$ESPNET3_WORDS" >> {folder}/told', "options": SMALL}
    finish |= keys.pop("finish", {})
    config = {"env": "slurm", "n_workers": 16, "options": TINY, "finish": finish, **keys}
    provider = Troubles({"folder": str(folder), **trouble})
    return submit_run(Troubled(provider), range(n_items), run_dir=folder / "run", parallel=config)


def end_of(run: Run, seconds: float = 200) -> Any:
    """What `finished.json` says, once it is there; nobody touches anything meanwhile."""
    path = Path(run.run_dir, layout.finished(1))
    wait_for(path.exists, "the run does not end", seconds)
    return json.loads(path.read_bytes())


def results_of(end: Any) -> list[Any]:
    """The results in the file that it names."""
    lines = Path(end["results"]).read_text().splitlines()
    return [json.loads(line)["result"] for line in lines]


def test_killed_workers_are_tried_again_and_all_is_collected(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    run = submit(tmp_path, 24, {"kills": [3, 11]}, n_shards=8)
    end = end_of(run)
    assert end["outcome"] == "done", end
    assert results_of(end) == [{"item": item} for item in range(24)]
    assert len(end["waves"]) == 1
