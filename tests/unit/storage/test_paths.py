"""Paths by the name under which the shell entered a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from espnet3.storage.paths import absolute, as_entered, same_file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is a link; the shell is in its folder project."""
    (tmp_path / "raid7/me/project/sub").mkdir(parents=True)
    (tmp_path / "raid7/other").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home/me").symlink_to(tmp_path / "raid7/me")
    monkeypatch.chdir(tmp_path / "home/me/project")
    monkeypatch.setenv("PWD", str(tmp_path / "home/me/project"))
    return tmp_path


def test_relative_paths_keep_the_name_of_the_link(home: Path) -> None:
    here = f"{home}/home/me/project"
    assert os.getcwd() == f"{home}/raid7/me/project"
    assert absolute(".") == here
    assert absolute("new/run") == f"{here}/new/run"
    assert absolute("sub/../x") == f"{here}/x"
    assert absolute("../notes") == f"{home}/home/me/notes"
    assert as_entered(f"{home}/raid7/me/bin/python") == f"{home}/home/me/bin/python"


def test_what_the_link_does_not_lead_to_stays(home: Path) -> None:
    assert absolute("../../other/x") == f"{home}/raid7/other/x"
    assert as_entered("/usr/bin/python3") == "/usr/bin/python3"
    assert as_entered(f"{home}/raid7/menu") == f"{home}/raid7/menu"
    (home / "raid7/me/away").symlink_to(home / "raid7/me/gone")
    assert as_entered(f"{home}/raid7/me/away") == f"{home}/raid7/me/away"


@pytest.mark.parametrize("said", ["", "home/me/project", "/no", "{}/home", "{}/home/me/project/",
                                  "{}/home/me/project/sub/.."])  # fmt: skip
def test_a_name_that_is_another_folders_is_not_believed(
    home: Path, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PWD", said.format(home))
    assert absolute("x") == f"{home}/raid7/me/project/x"


def test_the_name_is_not_believed_after_a_change_of_the_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home / "raid7/other")
    assert absolute("x") == f"{home}/raid7/other/x"


def test_one_file_has_many_names(home: Path) -> None:
    (home / "raid7/me/job.py").touch()
    assert same_file(f"{home}/raid7/me/job.py", f"{home}/home/me/job.py")
    assert same_file("/nowhere/x", "/nowhere/x")
    assert not same_file("/nowhere/x", f"{home}/home/me/job.py")
