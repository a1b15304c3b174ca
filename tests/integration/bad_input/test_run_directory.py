"""Bad input, the run directory: refused in one clear line, with nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import espnet3
from espnet3.errors import (
    EspnetError,
    PlanMismatch,
    RunDirectoryError,
)
from espnet3.specs.layout import FOLDERS
from espnet3.storage.opening import open_store
from tests.support.refusals import (
    REPOSITORY,
    Odd,
    Provider,
    Runner,
    everything_asked_of,
    one_clear_line,
    refused,
    snapshot,
    start,
    unfinish,
    worker,
)


def test_a_file_is_no_run_directory(here: Path) -> None:
    (here / "run").write_text("a file")
    for run_dir in ("run", "run/below", "run/far/below"):
        words = [str(here / "run"), "is a file", "choose another run_dir"]
        with refused(RunDirectoryError, *words, folder=here):
            start(run_dir=run_dir)


def test_below_a_file_is_no_run_directory(here: Path) -> None:
    (here / "notes").write_text("keep")
    for name in (f"{here}/notes", "/dev/null"):  # everyone may write the second one
        with refused(RunDirectoryError, "is a file, or below a file; choose", folder=here):
            start(run_dir=f"{name}/run")


def test_a_folder_with_foreign_files_is_refused(here: Path) -> None:
    (here / "run").mkdir()
    (here / "run/thesis.tex").write_text("years of work")
    words = [str(here / "run"), "'thesis.tex'", "choose another run_dir"]
    with refused(RunDirectoryError, *words, folder=here):
        start()


@pytest.mark.parametrize("run_dir", ["", "a\nb", "a\0b", "http://host/run", "zip://a.zip"])
def test_what_cannot_be_a_run_directory_is_refused(here: Path, run_dir: str) -> None:
    with refused(RunDirectoryError, folder=here):
        start(run_dir=run_dir)


def test_a_directory_that_holds_another_run_is_refused(here: Path) -> None:
    start(Runner(Provider({"beam": 5})))
    espnet3.Run("run").wait(60, 0.1)
    for runner, items, words in (
        (Runner(Provider({"beam": 8})), range(4), ["config.beam is 5 in that run and 8 here"]),
        (Runner(Provider({})), range(4), ["config.beam is 5 in that run and not set here"]),
        (Runner(Provider({"beam": 5})), range(5), ["the number of items is 4 in that run and 5"]),
        (Runner(Provider({"beam": 5})), range(1, 5), ["the checksum of the items is"]),
        (Runner(Provider({"beam": 5}), batch_size=2), range(4), ["batch_size is None in that run"]),
        (Odd(Provider({"beam": 5})), range(4), ["runner.qualname is 'Runner' in that run"]),
    ):
        with refused(PlanMismatch, *words, "choose another run_dir", folder=here):
            start(runner, items)
    words = ["results is 'json' in that run and 'pickle' here"]
    with refused(PlanMismatch, *words, folder=here):
        start(Runner(Provider({"beam": 5})), parallel={"results": "pickle"})
    assert start(Runner(Provider({"beam": 5}))).submitted.ranks == []


def test_shards_of_another_plan_cut_short_are_refused(here: Path) -> None:
    start(Runner(Provider({"beam": 5})))
    espnet3.Run("run").wait(60, 0.1)
    (here / "run/run.json").unlink()
    words = [str(here / "run"), "another plan that was cut short", "000000.json", "remove the"]
    with refused(RunDirectoryError, *words, folder=here):
        start(Runner(Provider({"beam": 8})))


UNPRIVILEGED = """
import os, sys
sys.path.insert(0, {repository!r})
from tests.support.refusals import Odd
from tests.support.refusals import Provider, Runner
from espnet3.run import submit_run
from espnet3.errors import EspnetError
try:
    submit_run(Runner(Provider({{}})), range(3), run_dir=sys.argv[1])
except EspnetError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("state", ["not there", "empty", "prepared", "hidden", "hidden parent"])
def test_a_run_directory_without_permission_is_refused(here: Path, state: str) -> None:
    parent = here / "parent"
    run = parent / "run"
    parent.mkdir()
    if state not in ("not there", "hidden parent"):
        run.mkdir()
    if state == "prepared":
        for folder in FOLDERS:
            (run / folder).mkdir()
            (run / folder).chmod(0o555)
    if run.exists():
        run.chmod(0 if state == "hidden" else 0o555)
    parent.chmod(0 if state == "hidden parent" else 0o555)
    done = subprocess.run(
        [*without_privileges(), sys.executable, "-B", "-c",
         UNPRIVILEGED.format(repository=str(REPOSITORY)), str(run)],
        cwd="/", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    parent.chmod(0o755)
    if run.exists():
        run.chmod(0o755)
    assert done.returncode == 0, done.stderr
    one_clear_line(done.stdout.strip(), str(run), "Permission denied")
    if state in ("not there", "empty", "hidden"):
        one_clear_line(done.stdout.strip(), "RunDirectoryError", "choose another run_dir")
    assert [path for path in parent.rglob("*") if path.is_file()] == []
    assert run.exists() is (state not in ("not there", "hidden parent"))


def without_privileges() -> list[str]:
    """For root, who may write everywhere: a command's prefix that takes that power away."""
    if os.geteuid() != 0:
        return []
    power = "-dac_override,-dac_read_search"
    command = ["setpriv", f"--bounding-set={power}", f"--inh-caps={power}"]
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"root cannot give up its privileges here: {error}")
    return command


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "foreign"])
def test_a_directory_that_is_no_run_is_refused_by_all(here: Path, kind: str) -> None:
    folder = here / "run"
    if kind == "file":
        folder.write_text("")
    elif kind != "missing":
        folder.mkdir()
    if kind == "foreign":
        (folder / "thesis.tex").write_text("")
    words = [str(folder), "is not a run directory", "run.json", "submit again"]
    if kind == "missing":
        words = [f"{folder}: does not exist; name the run directory that submit printed"]
    if kind == "file":
        words = [f"{folder}: is a file; name the run directory that submit printed"]
    if kind == "foreign":
        words = [str(folder), "is not a run directory", "no run is directly in it"]
    for name, ask in everything_asked_of(folder).items():
        if (kind, name) == ("missing", "cancel"):
            with refused(RunDirectoryError, "no job is known to work for it", folder=here):
                ask()
            continue
        with refused(RunDirectoryError, *words, folder=here):
            ask()
    code, error = worker(folder)
    assert code == 2
    one_clear_line(error, f"espnet3.worker: {folder}/run.json", "no such file")


@pytest.mark.parametrize("rank", [2, -1, "7"])
def test_a_rank_that_is_not_there_is_refused(here: Path, run_dir: Path, rank: Any) -> None:
    unfinish(run_dir)
    before = snapshot(here)
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).resume([rank])
    one_clear_line(str(caught.value), f"rank {rank}", "has shards 0 to 1")
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).logs(int(rank))
    one_clear_line(str(caught.value), f"rank {rank}", "has shards 0 to 1")
    assert snapshot(here) == before


@pytest.mark.parametrize("rank", ["two", "1.5", "shards/000000.json"])
def test_a_rank_that_is_no_rank_is_refused(here: Path, run_dir: Path, rank: Any) -> None:
    unfinish(run_dir)
    before = snapshot(here)
    with pytest.raises(EspnetError) as caught:
        espnet3.Run(run_dir).resume([rank])
    one_clear_line(str(caught.value), str(rank))
    assert snapshot(here) == before


def test_the_store_agrees_that_nothing_is_there(here: Path) -> None:
    assert not open_store(here / "run").exists("run.json")
