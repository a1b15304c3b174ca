"""Removing runs: real processes, real files; what lives, is foreign or lies behind links stays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3._blocking import run_blocking
from espnet3.errors import EspnetError, RunDirectoryError, StoreError, Untrusted, UsageError
from espnet3.run import Run, submit_run
from espnet3.run_dir import removal
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.models import WorkerState, encode, now
from espnet3.status.run_list import list_runs
from tests.support import ends
from tests.support.cli_project import Project
from tests.support.helpers import (
    ended,
    files_of,
    jobs,
    locally,
    noted,
    parallel,
    processes_of,
    python,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, Noting, Workshop

pytestmark = pytest.mark.usefixtures("gate_opens_at_last")


def over(tmp_path: Path, **keys: Any) -> Run:
    """A run that is done, and of which nothing lives."""
    run = ended(submit_noting(tmp_path, 6, parallel("local", n_workers=2, n_shards=3, **keys)))
    wait_for(lambda: not processes_of(run), "a process lives on")
    return run


def begun(tmp_path: Path, n: int, **keys: Any) -> Run:
    """A run of which so many items wait at the gate, each in a process."""
    config = parallel("local", n_workers=n, n_shards=n, heartbeat=0.4, **keys)
    run = submit_noting(tmp_path, n, config, gated=range(n))
    wait_for(lambda: len(noted(tmp_path, "begun")) == n, "items are not begun")
    return run


def listed(folder: Path) -> list[tuple[str, str]]:
    return [(Path(run.run_dir).name, run.state) for run in run_blocking(list_runs([folder]))]


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_run_is_removed_whole(tmp_path: Path, schedule: str) -> None:
    run = over(tmp_path, schedule=schedule)
    n_files = len(files_of(run.run_dir))
    assert listed(tmp_path) == [("run", "done")]
    removed = run.remove()
    assert (removed.files, removed.cancelled) == (n_files, [])
    assert not os.path.lexists(run.run_dir)
    with pytest.raises(RunDirectoryError, match="is not there, or no folder"):
        run.remove()


def test_what_a_finisher_collected_goes_too(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 4, parallel("local", n_shards=2, finish={"notify": "true"}))
    ends.end_of(run)
    wait_for(lambda: not processes_of(run), "a process lives on")
    assert Path(run.run_dir, "results.jsonl").exists()
    run.remove()
    assert not os.path.lexists(run.run_dir)


def test_a_snapshot_goes_and_what_its_links_lead_to_stays(tmp_path: Path) -> None:
    espnet3 = Project(tmp_path, "local")
    beside = espnet3.folder / "conf dir" / "corpus"
    beside.mkdir()
    (beside / "a.wav").write_text("sound")
    espnet3("submit", espnet3.config, "parallel.snapshot=true")
    espnet3.watch()
    folder = espnet3.folder / espnet3.run_dir
    links = [path for path in folder.rglob("*") if path.is_symlink()]
    assert [path.name for path in links if path.resolve() == beside] == ["corpus"]
    run = Run(folder)
    wait_for(lambda: not processes_of(run), "a process lives on")
    mine = next(folder.glob("code/0001/*")) / "mine.txt"
    mine.write_text("written beside the script")
    done = espnet3("remove", espnet3.run_dir, "--yes", code=2)
    assert "holds what is not the run's: code/0001/0/mine.txt; move it away" in done.stderr
    mine.unlink()
    espnet3("remove", espnet3.run_dir, "--yes")
    assert not folder.exists()
    assert (beside / "a.wav").read_text() == "sound"


def test_foreign_files_are_named_and_stay_unless_all_is_said(tmp_path: Path) -> None:
    run = over(tmp_path)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "precious").touch()
    root = Path(run.run_dir)
    (root / "plots" / "deep").mkdir(parents=True)
    (root / "plots" / "deep" / "a.png").touch()
    (root / "results" / "notes.txt").touch()
    (root / "data").symlink_to(kept)
    (root / "logs" / "link.log").symlink_to(kept / "precious")
    before = files_of(root)
    with pytest.raises(RunDirectoryError, match="holds what is not the run's: ") as no:
        run.remove()
    assert "run's: data, logs/link.log, plots, results/notes.txt; move" in str(no.value)
    assert files_of(root) == before
    assert run.collect() == locally(tmp_path, 6)
    run.remove(everything=True)
    assert not root.exists()
    assert (kept / "precious").exists()


def test_a_folder_that_was_moved_behind_a_link_stays(tmp_path: Path) -> None:
    run = over(tmp_path)
    elsewhere = tmp_path / "large disk"
    shutil.move(f"{run.run_dir}/results", elsewhere)
    Path(run.run_dir, "results").symlink_to(elsewhere)
    with pytest.raises(RunDirectoryError, match="not the run's: results; move"):
        run.remove()
    run.remove(everything=True)
    assert not os.path.lexists(run.run_dir)
    assert len(files_of(elsewhere)) == 3


def test_what_is_no_run_directory_is_refused(tmp_path: Path) -> None:
    run = over(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(run.run_dir)
    with pytest.raises(RunDirectoryError, match=r"is a link; name .*/run, to which it leads"):
        Run(link).remove()
    with pytest.raises(RunDirectoryError, match=r"is not a run directory, but holds one: .*/run;"):
        Run(tmp_path).remove(everything=True)
    os.chmod(run.run_dir, 0o777)
    with pytest.raises(Untrusted, match="world-writable"):
        run.remove()
    os.chmod(run.run_dir, 0o755)
    Path(run.run_dir, layout.RUN).write_text("{")
    with pytest.raises(EspnetError):
        run.remove()
    assert len(files_of(run.run_dir)) > 10
    assert listed(tmp_path) == [("run", "unreadable")]


def test_what_lives_is_refused_and_is_cancelled_on_request(tmp_path: Path) -> None:
    run = begun(tmp_path, 2)
    before = files_of(run.run_dir)
    with pytest.raises(RunDirectoryError, match=r"is alive: 2 shards running; cancel it first"):
        run.remove()
    assert files_of(run.run_dir) == before
    assert {*states(run).values()} == {"running"}
    done = python("-m", "espnet3", "remove", run.run_dir)
    assert (done.returncode, "is alive: 2 shards running" in done.stderr) == (2, True)
    [job] = jobs(run).jobs
    assert run.remove(cancel=True).cancelled == [job.job_id]
    assert not processes_of(run)
    assert not os.path.lexists(run.run_dir)


def test_a_worker_that_joined_is_alive(tmp_path: Path) -> None:
    run = begun(tmp_path, 2, schedule="dynamic")
    run.cancel()
    wait_for(lambda: not processes_of(run), "a process lives on")
    run.resume(options={"n_workers": 1})
    run.cancel()
    wait_for(lambda: not processes_of(run), "a process lives on")
    joined = next(Path(run.run_dir, "workers").iterdir())
    directory = RunDirectory.open(run.run_dir)
    state = directory.read(WorkerState, f"workers/{joined.name}")
    alive = state.model_copy(update={"task": None, "ended": False, "process": this_process()})
    joined.write_bytes(encode(alive))
    with pytest.raises(RunDirectoryError, match=f"a worker that joined, process {os.getpid()}"):
        run.remove()
    elsewhere = this_process().model_copy(update={"host": "elsewhere"})
    joined.write_bytes(encode(alive.model_copy(update={"process": elsewhere})))
    run.remove()  # no sign of it in two heartbeats


def test_a_submission_meanwhile_stops_the_removal(tmp_path: Path) -> None:
    run = over(tmp_path)
    directory = RunDirectory.open(run.run_dir)
    found = submission(run)
    directory.publish(found.model_copy(update={"number": 2, "created": now()}))
    with pytest.raises(RunDirectoryError, match="was submitted again meanwhile"):
        removal.begin(directory, directory.run().run_id, 1)
    assert not Path(run.run_dir, layout.REMOVAL).exists()
    removal.begin(directory, directory.run().run_id, 2)
    Path(run.run_dir, layout.receipt(0)).unlink()
    with pytest.raises(RunDirectoryError, match="is being removed, or was half"):
        run.resume()


def test_a_run_that_took_the_place_meanwhile_stays(tmp_path: Path) -> None:
    old = over(tmp_path)
    run_id = RunDirectory.open(old.run_dir).run().run_id
    old.remove()
    run = over(tmp_path)
    directory, before = RunDirectory.open(run.run_dir), files_of(run.run_dir)
    with pytest.raises(UsageError, match="this job belongs to run"):
        removal.begin(directory, run_id, 1)
    assert files_of(run.run_dir) == before
    for gone in (run_id, None):
        with pytest.raises(RunDirectoryError, match="was removed by somebody else"):
            removal.clear(directory, gone, everything=True)
        Path(run.run_dir, layout.REMOVAL).touch()
        with pytest.raises(RunDirectoryError, match="holds another run by now"):
            removal.clear(directory, gone, everything=True)
        Path(run.run_dir, layout.REMOVAL).unlink()
    assert files_of(run.run_dir) == before


def test_who_gives_up_leaves_the_note_of_another_removal(tmp_path: Path) -> None:
    run = over(tmp_path)
    directory = RunDirectory.open(run.run_dir)
    run_id = directory.run().run_id
    removal.begin(directory, run_id, 1)
    note = Path(run.run_dir, layout.REMOVAL).read_bytes()
    with pytest.raises(RunDirectoryError, match="was submitted again meanwhile"):
        removal.begin(directory, run_id, 0)
    assert Path(run.run_dir, layout.REMOVAL).read_bytes() == note


class Dies(Exception):
    """Not caught by anybody."""


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Whoever deletes ends after so many deletions."""
    left = after

    def counted(name: str) -> None:
        real = getattr(os, name)

        def step(*args: Any, **keys: Any) -> None:
            nonlocal left
            if "run.json" in str(args[0]) or keys:  # of the removal, and no temporary file
                left -= 1
                if left < 0:
                    raise Dies
            real(*args, **keys)

        monkeypatch.setattr(os, name, step)

    counted("unlink")
    counted("rmdir")


def test_each_crash_leaves_what_can_be_removed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = over(tmp_path)
    Path(whole.run_dir).rename(tmp_path / "whole")
    after = 0
    while True:
        shutil.rmtree(whole.run_dir, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", whole.run_dir, symlinks=True)
        with monkeypatch.context() as patch:
            dying(patch, after)
            try:
                whole.remove()
            except Dies:
                pass
            else:
                break
        _require_sound(tmp_path, whole, after)
        after += 1
    assert after > 20
    assert not os.path.lexists(whole.run_dir)


def _require_sound(tmp_path: Path, run: Run, after: int) -> None:
    """A run that is complete, or one that nobody takes for one; either can be removed."""
    config = parallel("local", n_workers=2, n_shards=3)
    if Path(run.run_dir, layout.RUN).exists():
        assert after == 0
        assert run.collect() == locally(tmp_path, 6)
    elif Path(run.run_dir, layout.REMOVAL).exists():
        assert ("run", "half removed") in listed(tmp_path)
        for action in (run.status, run.resume, run.collect, run.cancel):
            with pytest.raises(RunDirectoryError, match="removed half"):
                action()
        with pytest.raises(RunDirectoryError, match="removed, or was half"):
            submit_noting(tmp_path, 6, config)
    else:
        assert not [*Path(run.run_dir).iterdir()]
        return
    run.remove()
    assert not os.path.lexists(run.run_dir)


def test_what_is_written_meanwhile_stays_and_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = over(tmp_path)
    real = os.rmdir

    def write_first(name: Any, **keys: Any) -> None:
        if name == "logs":
            Path(run.run_dir, "logs", "late.txt").touch()
        real(name, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", write_first)
        with pytest.raises(StoreError, match="logs: is not empty: a process has a file in it open"):
            run.remove()
    with pytest.raises(RunDirectoryError, match=r"not the run's: logs/late\.txt"):
        run.remove()
    run.remove(everything=True)
    assert not os.path.lexists(run.run_dir)


def test_a_copy_is_removed_while_the_original_lives(tmp_path: Path) -> None:
    run = begun(tmp_path, 2)
    copy = Run(shutil.copytree(run.run_dir, tmp_path / "copy"))
    copy.remove()
    assert not os.path.lexists(copy.run_dir)
    assert {*states(run).values()} == {"running"}
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 2)


def test_a_runner_may_submit_to_the_same_place_again(tmp_path: Path) -> None:
    over(tmp_path).remove()
    runner = Noting(Workshop({"folder": str(tmp_path)}))
    again = submit_run(runner, range(3), run_dir=tmp_path / "run", parallel=parallel("local"))
    assert len(ended(again).collect()) == 3


@pytest.mark.parametrize(("answer", "stays"), [("n\n", True), ("y\n", False)])
def test_a_person_is_asked(tmp_path: Path, answer: str, stays: bool) -> None:
    run = over(tmp_path)
    mine, its = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "espnet3", "remove", run.run_dir],
        stdin=its, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        os.close(its)
        os.write(mine, answer.encode())
        out, err = process.communicate(timeout=100)
    os.close(mine)
    assert f"{run.run_dir}: {len(files_of(run.run_dir)) if stays else ''}" in err
    assert "3 of 3 shards done" in err
    assert "Remove it?" in err
    assert os.path.lexists(run.run_dir) is stays
    assert process.returncode == (1 if stays else 0)
    assert out.startswith("" if stays else f"removed\t{run.run_dir}\nfiles\t")
