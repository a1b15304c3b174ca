"""`espnet3 list`: real runs in real folders, and what else may lie there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet3._blocking import run_blocking
from espnet3.errors import RunDirectoryError
from espnet3.run_dir import finding
from espnet3.run_dir.finding import run_dirs_in
from espnet3.specs import layout
from espnet3.status import run_list
from espnet3.status.run_list import DEPTH, ListedRun, NotAllLookedAt, list_runs, see_runs
from tests.support.commands import said
from tests.support.helpers import ended, noted, parallel, processes_of, submit_noting, wait_for
from tests.support.runners import GATE


@pytest.fixture(autouse=True)
def _gate_opens_at_last(tmp_path: Path) -> Iterator[None]:
    yield
    for folder in (tmp_path, *tmp_path.iterdir()):
        if folder.is_dir():
            (folder / GATE).touch()


def runs_in(*folders: Path, ask: bool = False) -> dict[str, ListedRun]:
    return {Path(run.run_dir).name: run for run in run_blocking(list_runs(folders, ask=ask))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs in each state that a directory tells, and what is none."""
    found = tmp_path / "espnet3_runs"
    found.mkdir()
    run = ended(submit_noting(tmp_path, 6, parallel("local", n_workers=2, n_shards=3)))
    wait_for(lambda: not processes_of(run), "a process lives on")
    for name in ("done", "part", "cancelled", "new", "damaged", "half", "a/deep"):
        shutil.copytree(run.run_dir, found / name)
    for name in ("part", "cancelled", "new"):
        (found / name / layout.receipt(1)).unlink()
    (found / "cancelled" / layout.cancellation(1)).write_text("{}")
    shutil.rmtree(found / "new" / layout.SUBMISSIONS)
    (found / "damaged" / layout.RUN).write_text("{}")
    (found / "half" / layout.RUN).rename(found / "half" / layout.REMOVAL)
    (found / "notes").mkdir()
    (found / "file").touch()
    (found / "link").symlink_to(found / "done")
    (found / "loop").symlink_to("loop")
    return found


def test_a_run_that_links_lead_to_is_one_of_the_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "a-link").symlink_to(folder / "done")
    (folder / "elsewhere").symlink_to(tmp_path / "run")
    found = {Path(run_dir).name for run_dir in run_dirs_in(folder)}
    assert found == {"done", "part", "cancelled", "new", "damaged", "half", "elsewhere"}


def test_each_run_is_a_line(folder: Path) -> None:
    found = runs_in(folder)
    states = {name: run.state for name, run in found.items() if name != "link"}
    done = found.get("done") or found["link"]  # one of both: they are the same
    assert states | {"done": done.state} == {
        "done": "done", "part": "unfinished", "cancelled": "cancelled", "new": "new",
        "damaged": "unreadable", "half": "half removed", "deep": "done",
    }  # fmt: skip
    part = found["part"]
    assert (part.shards_done, part.n_shards, part.items_done, part.n_items) == (2, 3, 4, 6)
    files = [path for path in (folder / "part").rglob("*") if path.is_file()]
    assert (part.size, part.size_is_whole) == (sum(path.stat().st_size for path in files), True)
    assert "run.json" in found["damaged"].problem
    assert [run.state for run in run_blocking(list_runs([folder / "part"]))] == ["unfinished"]


def test_many_files_are_not_all_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_list, "MOST_FILES", 5)
    found = runs_in(folder)["part"]
    assert not found.size_is_whole


def test_of_many_runs_fewer_files_each_are_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a thousand runs of ten thousand shards would take an hour on a network file system."""
    monkeypatch.setattr(run_list, "MOST_FILES_IN_ALL", 30)
    monkeypatch.setattr(run_list, "FEWEST_FILES", 2)
    assert not any(run.size_is_whole for run in runs_in(folder).values() if run.n_shards)
    assert runs_in(folder / "part")["part"].size_is_whole


def test_what_lives_is_known_where_schedulers_are_asked(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 2, parallel("local", n_workers=1, n_shards=2), gated=[0])
    wait_for(lambda: noted(tmp_path, "begun"), "nothing is begun")
    assert runs_in(tmp_path)["run"].state == "unfinished"
    assert runs_in(tmp_path, ask=True)["run"].state == "running"
    run.cancel()
    wait_for(lambda: not processes_of(run), "a process lives on")
    assert runs_in(tmp_path, ask=True)["run"].state == "cancelled"


def test_a_folder_s_status_counts_the_items_of_unfinished_shards(tmp_path: Path) -> None:
    """As each run's own status does; else one of few large shards stood at 0 for hours."""
    run = ended(submit_noting(tmp_path, 4, parallel("local", n_workers=1, n_shards=1), failing=[3]))
    [seen] = run_blocking(see_runs([run.run_dir]))
    assert (seen.listed.state, seen.listed.items_done, seen.listed.n_items) == ("failed", 3, 4)
    assert run.status().progress.done == 3


def test_what_the_command_prints(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)  # the usual folders: . and espnet3_runs
    done = said("list")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert len(rows) == 8
    part = next(row for row in rows if row[-1].endswith("/part"))
    assert part[:3] == ["unfinished", "4", "6"]
    document = json.loads(said("list", "--json", str(folder)).out)
    assert {run["state"] for run in document["runs"]} >= {"done", "unfinished", "half removed"}
    # What is printed for a program names the run directory whole.
    paths = {str(path) for path in (*folder.iterdir(), folder / "a/deep")}
    assert {run["run_dir"] for run in document["runs"]} <= paths
    nothing = said("list", str(folder / "notes"))
    assert nothing == (0, "", f"no run in {folder / 'notes'}, looking 4 folders down\n")
    gone = said("list", str(folder / "gone"))
    assert gone.code == 2
    assert "gone: is not a folder, so no runs are in it" in gone.err


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """A tree as ESPnet has it, with the runs of two test sets, and what is not to be found."""
    run = ended(submit_noting(tmp_path, 2, parallel("local", n_workers=1, n_shards=1)))
    wait_for(lambda: not processes_of(run), "a process lives on")
    found = tmp_path / "exp"
    for name in ("test_clean", "test_other"):
        shutil.copytree(run.run_dir, found / "asr/decode" / name / layout.RUN_FOLDER)
    beside = found / "asr/decode/test_clean"
    shutil.copytree(run.run_dir, beside / "split.0/run")  # in an output folder
    shutil.copytree(run.run_dir, beside / layout.RUN_FOLDER / "plots/run")  # in a run directory
    shutil.copytree(run.run_dir, found / ".hidden/run")
    (found / "loop").symlink_to(found)
    (found / "elsewhere").symlink_to(tmp_path)  # whose `run` is not looked for
    return found


def paths_in(folder: Path, depth: int = DEPTH) -> list[str]:
    found = run_blocking(list_runs([folder], depth=depth))
    return sorted(os.path.relpath(run.run_dir, folder) for run in found)


def test_runs_are_found_further_down(exp: Path) -> None:
    both = [f"asr/decode/{name}/espnet3_run" for name in ("test_clean", "test_other")]
    assert paths_in(exp) == both
    assert paths_in(exp.parent)[:2] == [f"exp/{path}" for path in both]
    assert (paths_in(exp, depth=2), paths_in(exp, depth=3)) == ([], both)
    assert paths_in(exp / "asr/decode", depth=1) == [path.partition("decode/")[2] for path in both]
    listed = said("list", str(exp), "--depth", "2")
    assert listed == (0, "", f"no run in {exp}, looking 2 folders down\n")
    assert len(said("list", str(exp)).out.splitlines()) == 2


def test_of_a_large_tree_not_all_is_looked_at(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "MOST_FOLDERS", 3)
    assert len(said("list", str(exp)).out.splitlines()) == 2
    monkeypatch.setattr(finding, "MOST_FOLDERS", 1)
    with pytest.warns(NotAllLookedAt, match="exp: there is too much in it"):
        assert paths_in(exp) == []
    assert said("list", str(exp), "--depth", "2").err.startswith(f"no run in {exp}")
    told = said("list", str(exp))
    assert (told.code, told.out) == (0, "")
    words = "there is too much in it, so that not all of its folders were looked into"
    assert told.err.startswith(f"espnet3: {exp}: {words}; name one of them")
    monkeypatch.setattr(finding, "MOST_FOLDERS", 100)
    monkeypatch.setattr(finding, "_MOST_NAMES", 0)
    with pytest.warns(NotAllLookedAt):
        assert paths_in(exp) == []


def test_runs_in_many_folders_are_all_found(exp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many: what lies directly in a folder that is named was always looked at."""
    monkeypatch.setattr(finding, "MOST_FOLDERS", 1)
    assert paths_in(exp / "asr/decode") == ["test_clean/espnet3_run", "test_other/espnet3_run"]


def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="is not a folder"):
        runs_in(tmp_path / "none")
    if os.geteuid() == 0:  # root reads all
        return
    (tmp_path / "shut").mkdir(mode=0)
    with pytest.raises(RunDirectoryError, match="cannot be listed"):
        runs_in(tmp_path / "shut")
