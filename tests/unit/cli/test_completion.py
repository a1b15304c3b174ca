"""What a shell completes, asked as a shell asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.cli.app import app

PROGRAM = "from espnet3.cli.app import app; app(prog_name='espnet3')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("espnet3_runs/one", "runs/decode", "runs/train"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").touch()
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path


def completed(folder: Path, line: str) -> list[str]:
    """Kind and value of each completion of the last word of a line."""
    words = line.split(" ")
    environ = {
        **os.environ, "_ESPNET3_COMPLETE": "zsh_complete", "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environ, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    return [f"{kind} {value}" for kind, value in zip(lines[::3], lines[1::3], strict=True)]


@pytest.mark.parametrize("command", ["status", "remove", "cancel", "collect", "resume", "logs"])
def test_run_directories(folder: Path, command: str) -> None:
    assert completed(folder, f"espnet3 {command} ") == ["plain espnet3_runs/one"]
    assert completed(folder, f"espnet3 {command} runs/") == [
        "plain runs/decode",
        "plain runs/train",
    ]
    assert completed(folder, f"espnet3 {command} runs/d") == ["plain runs/decode"]
    # Where none is found the shell itself completes folders.
    assert completed(folder, f"espnet3 {command} ru") == ["dir ru"]
    assert completed(folder, f"espnet3 {command} s3://b") == ["dir s3://b"]


def test_files_and_folders(folder: Path) -> None:
    assert completed(folder, "espnet3 submit dec") == ["file dec"]
    assert completed(folder, "espnet3 list ru") == ["dir ru"]
    assert completed(folder, "espnet3 collect runs/decode -o re") == ["file re"]
    assert completed(folder, "espnet3 doctor conf") == ["file conf"]


def test_commands(folder: Path) -> None:
    assert completed(folder, "espnet3 rem") == ["plain remove"]
    assert {f"plain {name}" for name in app.commands} == {*completed(folder, "espnet3 ")}
