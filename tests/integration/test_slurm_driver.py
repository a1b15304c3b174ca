"""Nothing of the driver is needed once the call has returned; for Slurm and for `env: local`."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.run import Run
from tests.support.helpers import (
    causes,
    collected_elsewhere,
    ended,
    files_of,
    jobs,
    noted,
    once,
    python,
    submission,
    wait_for,
)
from tests.support.runners import GATE
from tests.support.slurm_cluster import SlurmCluster

# What a user writes: provider, runner and call in one file.
SCRIPT = """
import json
import os
import sys
import time
from pathlib import Path

from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

HERE = Path(__file__).parent


def note(name, text):
    with open(HERE / name, "a") as file:
        file.write(f"{text}\\n")


class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {"scale": self.config["scale"], "gate": self.config["gate"]}


class Decode(BaseRunner):
    @staticmethod
    def forward(idx, scale, gate):
        note("begun", idx)
        while gate and not Path(gate).exists():
            time.sleep(0.02)
        return {"item": idx, "value": idx * scale, "words": ["ä", None, idx / 3]}


def submit(env, gate=None, n_shards=4):
    options = {"cores": 1, "memory": "100MB"} if env == "slurm" else {}
    set_parallel({"env": env, "n_workers": 8, "n_shards": n_shards, "options": options})
    provider = Provider({"scale": 7, "gate": gate})
    return Decode(provider, async_mode=True, run_dir=HERE / "run")(range(120))


def main():
    mode = sys.argv[1]
    if mode == "here":
        json.dump(Decode(Provider({"scale": 7, "gate": None}))(range(120)), sys.stdout)
        return
    run = submit(mode, str(HERE / "gate"), 40)
    assert run.submitted.ranks == list(range(40))
    print("SUBMITTED", flush=True)
    while True:
        time.sleep(60)  # only a kill ends this process


GUARDED
"""
GUARD = 'if __name__ == "__main__":\n    main()\n'

BOTH = pytest.mark.parametrize("env", ["local", pytest.param("slurm", marks=[pytest.mark.slurm])])


@pytest.fixture
def scheduler(env: str, request: pytest.FixtureRequest) -> SlurmCluster | None:
    """Slurm, started only where the test asks for it."""
    return request.getfixturevalue("slurm") if env == "slurm" else None


def _session(pid: int) -> list[int]:
    """The live processes of a session."""
    members = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path("/proc", entry, "stat").read_text()
            state, _, _, session = stat[stat.rindex(")") + 2 :].split()[:4]
            if int(session) == pid and state not in "ZX":
                members.append(int(entry))
    return members


def _write(folder: Path, name: str = "decode.py", guard: str = GUARD) -> Path:
    script = folder / name
    script.write_text(SCRIPT.replace("GUARDED", guard))
    return script


@BOTH
def test_the_driver_and_its_terminal_die(
    env: str, scheduler: SlurmCluster | None, tmp_path: Path
) -> None:
    script = _write(tmp_path)
    terminal, end = pty.openpty()
    # A login session: its own terminal, session and process group, all of which end with it.
    driver = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, str(script), env],
        stdin=end, stdout=end, stderr=end, cwd=tmp_path,
    )  # fmt: skip
    os.close(end)
    printed = b""
    while b"SUBMITTED" not in printed:
        printed += os.read(terminal, 4096)  # an error (EIO) where the driver has died
    assert os.getsid(driver.pid) == driver.pid
    os.killpg(driver.pid, signal.SIGKILL)
    os.close(terminal)
    assert driver.wait() == -signal.SIGKILL
    wait_for(lambda: not _session(driver.pid), "something of the driver's session lives on")

    # No shard can have ended before: each of them waits for the gate.
    run = Run(tmp_path / "run")
    assert "done" not in run.status().counts()
    wait_for(lambda: len(noted(tmp_path, "begun")) == 8, "not 8 shards run at a time")
    (tmp_path / GATE).touch()
    ended(run)
    assert run.status().counts() == {"done": 40}, causes(run)
    here = python(script, "here")
    assert collected_elsewhere(run) == json.loads(here.stdout)
    assert noted(tmp_path, "begun") == once([*range(120), *range(120)])  # there and here


@BOTH
def test_a_module_run_with_m(env: str, scheduler: SlurmCluster | None, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    guard = GUARD.replace("main()", "submit(sys.argv[1])")
    _write(package, guard=guard)
    done = python("-m", "package.decode", env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = ended(Run(package / "run"))
    here = python(_write(tmp_path), "here")
    assert collected_elsewhere(run) == json.loads(here.stdout)


@BOTH
def test_a_script_without_a_guard_queues_nothing(
    env: str, scheduler: SlurmCluster | None, tmp_path: Path
) -> None:
    script = _write(tmp_path, guard=f"submit({env!r})")
    before = scheduler.jobs("--states=all") if scheduler else []
    done = python(script, cwd=tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("espnet3.errors.PreflightError: ")
    assert 'put the submission below `if __name__ == "__main__":`' in last
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert files_of(tmp_path) == {"decode.py"}
    assert (scheduler.jobs("--states=all") if scheduler else []) == before


@BOTH
def test_a_module_of_the_script_s_folder(
    env: str, scheduler: SlurmCluster | None, tmp_path: Path
) -> None:
    """The classes are in a module beside the script, which is started from elsewhere."""
    scripts, elsewhere = tmp_path / "scripts", tmp_path / "elsewhere"
    scripts.mkdir()
    elsewhere.mkdir()
    _write(scripts, "beside.py", guard="")
    script = scripts / "decode.py"
    script.write_text("import sys, beside\nbeside.submit(sys.argv[1])\n")
    done = python(script, env, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    run = ended(Run(scripts / "run"))
    assert [record["value"] for record in run.collect()] == [7 * item for item in range(120)]
    assert submission(run).jobs[0].n_tasks == 4
    assert len(jobs(run).jobs) == 1
