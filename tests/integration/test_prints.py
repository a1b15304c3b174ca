"""What `forward` printed is in the log of a process that was killed, wherever that log goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.run import Run
from tests.support.helpers import ROOT, python

SCRIPT = """
import multiprocessing, os, signal, sys
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

class Nothing(EnvironmentProvider):
    def build_env_local(self):
        print("builds")
        return {}

def tell(whom):
    print(whom, "needs 80 GB")
    os.kill(os.getpid(), signal.SIGKILL)

class Greedy(BaseRunner):
    @staticmethod
    def forward(idx):
        if idx == 7:
            child = multiprocessing.get_context("fork").Process(target=tell, args=("a child",))
            child.start()
            child.join()
        tell(f"utterance {idx}")

if __name__ == "__main__":
    where, mode = sys.argv[1:]
    options = {"scheduler_kwargs": {"allowed_failures": 0}, "threads_per_worker": 1}
    set_parallel({"env": "local", "n_workers": 1, "options": {} if mode == "detached" else options})
    runner = Greedy(Nothing({}), async_mode=mode == "detached", run_dir=where)
    try:
        run = runner([7 if mode == "detached" else 8])
        run.wait(interval=0.1, timeout=100)
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script whose `forward` prints, and is killed."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    script = tmp_path / "greedy.py"
    script.write_text(SCRIPT)
    return script


def test_a_detached_worker_and_one_in_the_foreground(script: Path, tmp_path: Path) -> None:
    done = python(script, tmp_path / "run", "detached")
    assert done.returncode == 0, done.stderr
    run = Run(tmp_path / "run")
    assert run.status().counts() == {"interrupted": 1}
    said = ["builds", "a child needs 80 GB", "utterance 7 needs 80 GB"]
    [log] = run.logs(0)
    assert Path(log).read_text().splitlines() == said
    spec = str(tmp_path / "run" / "shards" / "000000.json")
    words = [sys.executable, "-m", "espnet3.cli", "run-shard", spec]
    pipe = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    assert pipe.stdout.splitlines() == said
    with open(tmp_path / "output", "w") as file:
        subprocess.run(words, stdout=file, timeout=100, check=False)
    assert (tmp_path / "output").read_text().splitlines() == said


def test_a_worker_of_the_synchronous_mode(script: Path, tmp_path: Path) -> None:
    done = python(script, tmp_path / "run", "synchronous", env={"PYTHONPATH": str(ROOT)})
    assert "WorkersKilled" in done.stdout.splitlines(), done.stderr
    assert "[0] utterance 8 needs 80 GB" in done.stderr.splitlines()
