"""What of a process is recorded for workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from espnet3.specs.models import ClassReference
from espnet3.submit import process_record
from espnet3.submit.process_record import held_here


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["script.py", "-m", "x"], ["script.py", "-m", "x"]),
        (["-OB", "-X", "utf8", "-Wignore", "-W", "error", "script.py", "a"], ["script.py", "a"]),
        (["--check-hash-based-pycs", "always", "script.py"], ["script.py"]),
        (["other.py", "script.py"], None),
        (["-m", "cProfile", "script.py"], None),
        (["-c", "script.py"], None),
        (["-"], None),
    ],
)
def test_the_first_command_line_of_a_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], seen: list[str] | None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    main = ClassReference(module="__main__", qualname="", file=str(tmp_path / "script.py"))
    assert process_record._initial_argv(main) == seen


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["-m", "package.work", "a"], ["/p/work.py", "a"]),
        (["-Impackage.work", "a"], ["/p/work.py", "a"]),
        (["-m", "pdb", "-m", "package.work"], None),
    ],
)
def test_the_first_command_line_of_a_module(
    monkeypatch: pytest.MonkeyPatch, words: list[str], seen: list[str] | None
) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "/p/work.py", raising=False)
    main = ClassReference(module="package.work", qualname="")
    assert process_record._initial_argv(main) == seen


def test_variables_of_the_host_and_of_the_batch_system_are_not_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = {"HOSTNAME": "a", "SSH_TTY": "b", "SLURM_JOB_ID": "1", "PBS_O_HOST": "c", "TERM": "d"}
    here |= {"WORLD_SIZE": "4", "WORLD_RANK": "3"}  # of a worker that was in this process
    here |= {"SGE_TASK_ID": "1", "QUEUE": "gpu"}  # the latter is a job's where the former is
    weak = {"CUDA_VISIBLE_DEVICES": "3", "TMPDIR": "/here"}
    for name, value in {**here, **weak, "MINE": "1"}.items():
        monkeypatch.setenv(name, value)
    held = held_here()
    assert held.process.environment["MINE"] == "1"
    assert not held.process.environment.keys() & {*here, *weak}
    assert held.weak == weak


def test_a_process_that_hides_its_first_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that has written its title over it."""
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"title\0\0\0")
    monkeypatch.setenv("MINE", "1")
    assert held_here().process.environment == {}


def test_another_umask(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o137)
    try:
        assert held_here().process.umask == 0o137
    finally:
        os.umask(before)


def test_what_looks_secret_is_named_where_the_scheduler_does_not_pass_it_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HUB_TOKEN", "hunter2-Zq9")
    with pytest.warns(process_record.NotTakenOver, match="HUB_TOKEN: set in Python, and may be"):
        held = held_here()
    assert "HUB_TOKEN" not in held.process.environment
    assert "HUB_TOKEN" not in held_here(passed_on=True).process.environment
    assert held_here(["HUB_TOKEN"]).process.environment["HUB_TOKEN"] == "hunter2-Zq9"
