"""Where runs lie: in a linked home, under names that are no text, and elsewhere than before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError
from espnet3.run import Run
from tests.support.cli_project import COMMAND, Project
from tests.support.scripts import PROVIDER_OF_NOTHING

SCRIPT = (
    PROVIDER_OF_NOTHING
    + """\
import sys


class Runner(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx


if __name__ == "__main__":
    run = Runner(Provider({}), async_mode=True, run_dir=sys.argv[1])(range(4))
    run.wait(interval=0.1)
    assert run.collect() == [*range(4)]
    print(run.run_dir)
"""
)


def in_a_shell(folder: str | bytes, line: str, **environ: Any) -> subprocess.CompletedProcess[str]:
    """What a user gets who goes to a folder and types a line."""
    return subprocess.run(
        ["bash", "-c", b'cd "$0" && ' + line.encode(), folder],
        env={**os.environb, **{k.encode(): v for k, v in environ.items()}},
        capture_output=True, text=True, errors="replace", timeout=100, check=False,
    )  # fmt: skip


def linked_home(tmp_path: Path) -> tuple[Path, Path]:
    """A home by the name that nodes know, and where it lies on this host."""
    home, place = tmp_path / "home/me", tmp_path / "raid7/me"
    (place / "project").mkdir(parents=True)
    home.parent.mkdir()
    home.symlink_to(place)
    (place / "project/job.py").write_text(SCRIPT)
    return home, place


def test_a_linked_home_is_recorded_by_its_own_name(tmp_path: Path) -> None:
    home, place = linked_home(tmp_path)
    venv, own = Path(sys.executable).parents[1], place / "project/venv"
    (own / "bin").mkdir(parents=True)
    shutil.copy2(venv / "pyvenv.cfg", own)
    (own / "bin/python").symlink_to(os.path.realpath(sys.executable))
    (own / "lib").symlink_to(venv / "lib")
    done = in_a_shell(str(home / "project"), "venv/bin/python job.py runs/first")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"{home}/project/runs/first"
    run_dir = home / "project/runs/first"
    for name in ("run.json", "submissions/0001.json", "shards/000000.json"):
        assert str(place) not in (run_dir / name).read_text()
    run = json.loads((run_dir / "run.json").read_text())
    assert run["working_directory"] == f"{home}/project"
    assert run["runner"]["file"] == f"{home}/project/job.py"
    assert run["sys_path"][0] == f"{home}/project"
    assert run["python"] == f"{home}/project/venv/bin/python"
    submission = json.loads((run_dir / "submissions/0001.json").read_text())
    assert submission["log_directory"] == f"{run_dir}/logs"

    # It is the same plan, whichever way one comes.
    again = in_a_shell(str(place / "project"), "venv/bin/python job.py runs/first")
    assert (again.returncode, again.stderr) == (0, "")


def test_another_plan_is_told_by_what_differs_and_not_by_the_name(tmp_path: Path) -> None:
    home, place = linked_home(tmp_path)
    python = sys.executable
    assert in_a_shell(str(home / "project"), f"'{python}' job.py run").returncode == 0
    script = place / "project/job.py"
    script.write_text(SCRIPT.replace("range(4)", "range(5)"))
    other = in_a_shell(str(place / "project"), f"'{python}' job.py run")
    assert "holds another run: the number of items is 4 in that run and 5 here" in other.stderr


BAD = b"bad\xff"


@pytest.mark.parametrize("where", ["folder", "run_dir", "PYTHONPATH", "LD_LIBRARY_PATH"])
def test_names_that_are_no_text_are_refused_before_anything_is_left(
    tmp_path: Path, where: str
) -> None:
    bad = os.fsencode(tmp_path) + b"/" + BAD
    os.mkdir(bad)
    project = Project(tmp_path, "local")
    command = f"'{sys.executable}' -P -m espnet3"
    environ = {where: bad} if where.isupper() else {}
    folder: str | bytes = str(project.folder)
    if where == "folder":
        shutil.copytree(project.folder, os.fsdecode(bad + b"/project"))
        folder = bad + b"/project"
    change = r"run_dir=$'runs/x\xff/run'" if where == "run_dir" else ""
    before = {*walked(tmp_path)}
    for words in ("submit", "submit --dry-run", "doctor"):
        if words == "doctor" and where == "folder":
            continue  # its folder is beside the run directory
        line = f"{command} {words} 'conf dir/decode.yaml' {change}"
        done = in_a_shell(folder, line, **environ)
        assert done.returncode == 2, done
        [said] = [said for said in done.stderr.splitlines() if said != "imported"]
        assert said.startswith("espnet3: ")
        assert "no UTF-8" in said or "is not UTF-8" in said or "'utf-8' codec can't encode" in said
        assert {*walked(tmp_path)} == before


def walked(folder: Path) -> list[bytes]:
    return [
        os.path.join(root, name)
        for root, folders, files in os.walk(os.fsencode(folder))
        for name in [*folders, *files]
        if b"__pycache__" not in root and name != b"__pycache__"
    ]


def test_a_run_directory_whose_name_is_no_text_is_said_in_one_line(tmp_path: Path) -> None:
    bad = os.fsdecode(os.fsencode(tmp_path) + b"/" + BAD)
    with pytest.raises(RunDirectoryError, match="not UTF-8; choose another run_dir"):
        Run(bad)
    for words in (["status", "--json"], ["collect"], ["logs", "0"], ["cancel"], ["resume"]):
        done = subprocess.run(
            [*COMMAND, words[0], bad, *words[1:]], capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1


def test_the_logs_of_a_run_that_was_moved_are_its_own(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    project("submit", project.config)
    project.watch()
    old, new = project.folder / project.run_dir, project.folder / "moved"
    shutil.copytree(old, new)
    # What lies in the old place by now is another run's.
    for log in old.glob("logs/*"):
        log.write_text("of another run\n")
    assert "item 0\n" in project("logs", "moved", "0").stdout
    [path] = project.lines("logs", "moved", "0", "--path")
    assert path == str(new / "logs/0001-0.0.log")
    shutil.rmtree(old)
    assert "item 0\n" in project("logs", "moved", "0").stdout


def test_logs_in_a_folder_of_the_users_are_found_where_they_were_written(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    project("submit", project.config)
    project.watch()
    run_dir = project.folder / project.run_dir
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run_dir / "logs", elsewhere)
    file = run_dir / "submissions/0001.json"
    record = {**json.loads(file.read_text()), "log_directory": str(elsewhere)}
    file.write_text(json.dumps(record))
    assert project.lines("logs", project.run_dir, "0", "--path") == [
        str(elsewhere / "0001-0.0.log")
    ]
