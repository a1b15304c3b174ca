"""The end of a job's script in real shells: traps run, signals arrive, the worker's code counts."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet3.submit.shell_traps import in_place_of_the_shell

SHELLS = [name for name in ("bash", "dash", "sh", "busybox", "ksh", "zsh") if shutil.which(name)]
WORKER = """
import os, signal, sys, time
names = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU")
got = []
def note(number, frame):
    got.append(signal.Signals(number).name)
for name in names:
    signal.signal(getattr(signal, name), note)
with open("began", "w") as file:
    file.write(f"{os.getpid()} {os.getppid()}")
os.rename("began", "begun")
while not got and not os.path.exists("gate"):
    time.sleep(0.01)
print(*got, "stopped")
sys.exit(7)
"""


class Job:
    """A script under way, in a folder of its own."""

    def __init__(self, folder: Path, shell: str, lines: list[str]) -> None:
        self.folder = folder
        (folder / "worker.py").write_text(WORKER)
        worker = f"{shlex.quote(sys.executable)} worker.py 'a  b'"
        end = in_place_of_the_shell(worker, lines, f"#!/bin/{shell}")
        script = folder / "script"
        script.write_text("\n".join([f"#!/bin/{shell}", *lines, end, ""]))
        command = [shell, "sh"] if shell == "busybox" else [shell]
        self.process = subprocess.Popen(
            [*command, script], cwd=folder, stdout=subprocess.PIPE, text=True,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def began(self) -> tuple[int, int]:
        """The worker's id and its parent's, once it runs."""
        deadline = time.monotonic() + 60
        while not (self.folder / "begun").exists():
            assert time.monotonic() < deadline, "the worker does not begin"
            time.sleep(0.01)
        worker, parent = (self.folder / "begun").read_text().split()
        return int(worker), int(parent)

    def end(self) -> tuple[int, str]:
        """Exit code and output."""
        out, _ = self.process.communicate(timeout=60)
        return self.process.returncode, out


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("sourced", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGXCPU, None])
def test_an_exit_trap(
    tmp_path: Path, shell: str, sourced: bool, strict: bool, number: signal.Signals | None
) -> None:
    trap = """trap 'echo "trap of $?"; rm -f "it'"'"'s mine"' EXIT"""
    (tmp_path / "traps.sh").write_text(f"{trap}\n")
    (tmp_path / "it's mine").touch()
    lines = ["set -eu"] if strict else []
    job = Job(tmp_path, shell, [*lines, ". ./traps.sh" if sourced else trap])
    _, parent = job.began()
    assert parent == job.process.pid
    if number is None:
        (tmp_path / "gate").touch()
    else:
        job.process.send_signal(number)
    said = f"{number.name} stopped" if number else "stopped"
    assert job.end() == (7, f"{said}\ntrap of 7\n")
    assert not (tmp_path / "it's mine").exists()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("line", ["export A=1", "trap '' HUP", "trap 'echo no' EXIT; trap - EXIT"])
def test_without_traps_the_worker_takes_the_shells_place(
    tmp_path: Path, shell: str, line: str
) -> None:
    job = Job(tmp_path, shell, [line])
    worker, _ = job.began()
    assert worker == job.process.pid
    job.process.terminate()
    assert job.end() == (7, "SIGTERM stopped\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_script_does_at_a_signal_it_does_behind_the_worker(
    tmp_path: Path, shell: str
) -> None:
    lines = ["trap 'echo copied; exit 9' TERM", "trap 'echo end' EXIT", "trap 'echo no' USR1"]
    job = Job(tmp_path, shell, lines)
    job.began()
    job.process.terminate()
    assert job.end() == (9, "SIGTERM stopped\ncopied\nend\n")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("pause", [0.001, 0.005, 0.02])  # without one, shells run out of stack
def test_many_signals(tmp_path: Path, shell: str, pause: float) -> None:
    """The code is the worker's, whenever they come."""
    job = Job(tmp_path, shell, ["trap 'echo end' EXIT"])
    job.began()
    while job.process.poll() is None:
        os.kill(job.process.pid, signal.SIGUSR1)
        time.sleep(pause)
    code, said = job.end()
    # The worker's own, or that of a signal behind its handlers' end.
    assert code in (7, 128 + signal.SIGUSR1) or code == -signal.SIGUSR1
    assert said.startswith("SIGUSR1")


@pytest.mark.parametrize("shell", ["bash", "sh"])
def test_a_worker_that_is_killed_or_missing(tmp_path: Path, shell: str) -> None:
    job = Job(tmp_path, shell, ["trap 'echo end' EXIT"])
    worker, _ = job.began()
    os.kill(worker, signal.SIGKILL)
    assert job.end() == (128 + signal.SIGKILL, "end\n")
    end = in_place_of_the_shell("/no/such/worker", ["trap 'echo end' EXIT"], "")
    script = f"trap 'echo end' EXIT\n{end}"
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (127, "end\n")


def test_other_shells_are_left_alone() -> None:
    for lines, shebang in (
        (["setenv A 1"], "#!/bin/bash"),
        (["source env.csh"], "#!/bin/bash"),
        (["set a = b"], "#!/bin/tcsh"),
        (["set a b"], "#!/usr/bin/env fish"),
        ([], "#!/bin/bash"),
    ):
        assert in_place_of_the_shell("worker", lines, shebang) == "exec worker"
