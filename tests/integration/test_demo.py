"""The example on real speech: the demo as a newcomer runs it, and the same YAML on a real Slurm."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from omegaconf import OmegaConf

from espnet3 import Run
from espnet3.parallel import set_parallel
from examples.librivox.recognise import LibriVox, Recognise
from tests.support.slurm_cluster import SlurmCluster

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "librivox"
DECODE = EXAMPLE / "decode.yaml"

# A quarter of a minute on an idle host of two CPUs; ten times that where others use them as well.
PATIENCE = 400
pytestmark = pytest.mark.timeout(2 * PATIENCE)


def run_script(name: str, *arguments: str, cwd: Path) -> str:
    """What a script of the example prints, run as a user would, far from the repository."""
    done = subprocess.run(
        [sys.executable, EXAMPLE / name, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(cwd), "COLUMNS": "300"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_demo_recognises_speech_after_its_driver_has_gone(tmp_path: Path) -> None:
    out = run_script("demo.py", cwd=tmp_path)

    # The process that submitted, by its own record, is the one that had exited before collection.
    [run_dir] = tmp_path.glob("espnet3-librivox-*/run")
    driver = json.loads((run_dir / "submissions/0001.json").read_bytes())["submitter"]["pid"]
    gone = out.index(f"process {driver}, has exited and is gone")
    assert not psutil.pid_exists(driver)
    assert gone < out.index("3. Collect") < out.index("score.py") < out.index("hypothesis")

    # One row for each utterance, with plausible words.
    rows = re.findall(r"(austen-\d+) [│|] (.+?) [│|] (.+?) [│|] +(\d+) / (\d+)", out)
    transcripts = dict(
        line.split("\t") for line in (EXAMPLE / "data/transcripts.tsv").read_text().splitlines()
    )
    assert {name: reference.strip() for name, reference, *_ in rows} == transcripts
    assert "a more amiable woman" in rows[3][2]
    errors, words = (sum(int(row[i]) for row in rows) for i in (3, 4))
    assert words == 70
    assert errors / words < 0.3
    assert f"word error rate: {errors / words:.1%} ({errors} of 70 words)" in out


def test_same_yaml_on_slurm_gives_what_local_mode_gives(
    slurm: SlurmCluster, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    overrides = ["parallel.env=slurm", "parallel.options.cores=1", "parallel.options.memory=500MB"]
    overrides += ["items=2", "parallel.n_shards=2"]  # the demo above recognises them all
    run_script("submit.py", str(DECODE), f"run_dir={run_dir}", *overrides, cwd=tmp_path)

    # While the jobs work, the same here: no parallel config, one utterance after the other.
    set_parallel(None)
    config: Any = OmegaConf.load(DECODE)
    here = Recognise(LibriVox(config.config))(range(2))

    run = Run(run_dir)
    status = run.wait(timeout=PATIENCE, interval=0.5)
    assert status.done, status.unfinished()
    assert run.collect() == here
    [job] = json.loads((run_dir / "submissions/0001.json").read_bytes())["jobs"]
    tasks = slurm.jobs("--states=all", f"--name={job['name']}")
    assert [task.state for task in tasks] == ["COMPLETED"] * 2
