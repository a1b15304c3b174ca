"""Progress of items: what a run has done is seen and collected before any shard is done."""

from __future__ import annotations

import json
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from espnet3.collect import Collected, PartialResults
from espnet3.errors import FailedItems
from espnet3.run import Run, submit_run
from espnet3.specs import layout
from tests.support.cli_project import Project
from tests.support.commands import said
from tests.support.helpers import (
    ended,
    kill_all,
    locally,
    parallel,
    states,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, MENDED
from tests.support.worker_runs import Setup, Work

HALF = "0 of 2 shards done, 2 running, 11 of 20 items done"


def config(**keys: Any) -> Any:
    return parallel("local", **{"n_workers": 2, "n_shards": 2, "preflight": False, **keys})


def half_done(folder: Path, **keys: Any) -> Run:
    """A run of which one shard is at item 4, and the other one at item 17."""
    run = submit_noting(folder, 20, config(**keys), gated=[4, 17])
    wait_for(lambda: run.status().progress.done == 11, "the workers are not at the gate")
    return run


def partial(run: Run, **keys: Any) -> tuple[list[Any], str]:
    """What a partial collection gives, and its warning."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        found = run.collect(partial=True, patience=0, **keys)
    [warning] = [each for each in heard if each.category is PartialResults]
    return found, str(warning.message)


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_run_that_goes_on(tmp_path: Path, schedule: str) -> None:
    run = half_done(tmp_path, schedule=schedule)
    seen = run.status()
    assert seen.progress.of_shards == {0: 4, 1: 7}
    assert seen.progress.silent == {}
    _, out, _ = said("status", run.run_dir)
    assert out.startswith(HALF)
    document = json.loads(said("status", run.run_dir, "--json").out)
    assert (document["items"], document["items_done"]) == (20, 11)
    assert [shard["items_done"] for shard in document["shards"]] == [4, 7]

    there = [*range(4), *range(10, 17)]
    expected = [result for i, result in enumerate(locally(tmp_path, 20)) if i in there]
    found, words = partial(run)
    assert found == expected
    left = "9 of 20 items are left out, those at 4-9, 17-19, of shards 0-1"
    assert words == f"{run.run_dir}: {left}"
    with pytest.warns(PartialResults, match="9 of 20 items are left out"):
        assert [record.item for record in run.stream(partial=True)] == there
    with pytest.warns(PartialResults, match="9 of 20 items are left out"):
        written = run.collect(tmp_path / "out.jsonl", partial=True)
    assert isinstance(written, Collected)
    assert (written.records, written.missing) == (11, [(4, 10), (17, 20)])
    assert written.left_out.keys() == {0, 1}
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["item"] for line in lines] == there
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally_again(tmp_path)
    assert run.status().progress.done == 20


def locally_again(folder: Path) -> list[Any]:
    shutil.rmtree(folder / "local-mode")
    return locally(folder, 20)


def test_a_worker_that_is_silent_and_one_that_never_said_a_word(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 20, config(), gated=[4, 10])
    wait_for(lambda: run.status().progress.done == 4, "the workers are not at the gate")
    long_ago = time.time() - 1505
    for path in Path(run.run_dir).glob("[ar]*s/00000*"):
        os.utime(path, (long_ago, long_ago))
    seen = run.status()
    assert seen.progress.silent.keys() == {0, 1}
    assert [seen.progress.silent[rank][1:] for rank in (0, 1)] == [(4, 4), (0, 10)]
    _, out, _ = said("status", run.run_dir)
    first, second = out.splitlines()[1:]
    assert first.endswith(", no result for 25 min, at item 4")
    assert second.endswith(", no result for 25 min, at item 10")
    document = json.loads(said("status", run.run_dir, "--json").out)
    assert document["shards"][0]["silent"]["item"] == 4
    (tmp_path / GATE).touch()
    ended(run)


def test_what_a_killed_worker_left(tmp_path: Path) -> None:
    run = half_done(tmp_path)
    kill_all(run)
    ended(run)
    seen = run.status()
    assert set(seen.counts()) <= {"lost", "interrupted"}
    assert (seen.progress.done, seen.progress.per_second) == (11, None)
    (tmp_path / GATE).touch()
    run.resume()
    assert ended(run).status().progress.done == 20


def test_a_shard_that_is_lost_shows_the_end_of_its_log(tmp_path: Path) -> None:
    deed = {"at": 3, "do": "kill", "signal": "SIGSEGV"}
    run = ended(submit_run(Work(Setup(deed)), range(6), run_dir=tmp_path, parallel=config()))
    assert states(run) == {0: "done", 1: "lost"}
    [log] = run.logs(1)
    with open(log, "a") as file:
        file.write("the \x1b[31mlast words\n\n")
    counts, line = said("status", run.run_dir).out.splitlines()
    assert counts == "1 of 2 shards done, 1 lost, 3 of 6 items done"
    cause, named = line.split("\t")[4:]
    assert cause.endswith(r"; its log ends: the \x1b[31mlast words")
    assert named == log


def test_recorded_errors_of_shards_that_are_not_done(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 20, config(on_error="record"), gated=[4, 17], failing=[1, 12, 16])
    wait_for(lambda: run.status().progress.done == 11, "the workers are not at the gate")
    seen = run.status()
    assert (seen.failed, seen.failed_items) == ({0: 1, 1: 2}, 3)
    assert ", 11 of 20 items done, " in said("status", run.run_dir).out
    assert "3 of 20 items failed" in said("status", run.run_dir).out
    with pytest.raises(FailedItems):
        run.collect(partial=True)
    found, _ = partial(run, errors="keep")
    assert len(found) == 10  # of the error at the end of a file nobody knows yet what ended it
    (tmp_path / GATE).touch()
    assert ended(run).status().failed == {0: 1, 1: 2}


def test_items_behind_those_that_are_computed_again(tmp_path: Path) -> None:
    """Lines behind an error that counts no more are no beginning of any file."""
    run = ended(submit_noting(tmp_path, 20, config(on_error="record"), failing=[1, 12]))
    shutil.rmtree(Path(run.run_dir, layout.LOGS))
    Path(run.run_dir, layout.LOGS).mkdir()
    run.resume(items="failed", options={"on_error": "stop"})
    ended(run)
    seen = run.status()
    assert seen.counts() == {"failed": 2}
    assert (seen.progress.done, seen.failed_items) == (18, 0)
    found, words = partial(run)
    assert [result["item"] for result in found] == [i for i in range(20) if i not in (1, 12)]
    assert "2 of 20 items are left out, those at 1, 12, of shards 0-1" in words
    with pytest.warns(PartialResults):
        assert len([*run.stream(partial=True)]) == 18
    (tmp_path / MENDED).touch()
    run.resume()
    assert len(ended(run).collect()) == 20


def test_watching_counts_items(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    project("submit", project.config, "provider.params.gated=[2,3]")
    watching = project.start("watch", project.run_dir, "--interval", "0.2")
    assert watching.stdout is not None
    said_so: list[str] = []
    while not said_so or "8 of 12 items done" not in said_so[-1]:
        said_so.append(watching.stdout.readline())
        assert said_so[-1]
    (project.folder / "open").touch()
    rest, _ = watching.communicate(timeout=60)
    assert watching.returncode == 0
    said_so += rest.splitlines()
    assert said_so[-1] == "4 of 4 shards done"
