"""Items that failed and were recorded: every command says so, and a resume may begin to record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import ConfigError, FailedItems, PlanMismatch, UsageError
from espnet3.run import Run
from espnet3.specs import layout
from tests.support.cli_project import Project
from tests.support.helpers import (
    causes,
    ended,
    locally,
    noted,
    once,
    parallel,
    receipt,
    states,
    submission,
    submit_noting,
)
from tests.support.runners import MENDED

FAILING = [*range(1, 30, 3)]  # ten of thirty, in all shards
SAID = "3 of 3 shards done, 10 of 30 items failed"


def config(**keys: Any) -> Any:
    return parallel("local", **{"n_workers": 2, "n_shards": 3, "preflight": False, **keys})


def failed_run(folder: Path) -> Run:
    return ended(submit_noting(folder, 30, config(on_error="record"), failing=FAILING))


def test_what_failed_is_said_wherever_a_run_is_looked_at(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    run_dir = failed_run(tmp_path).run_dir
    assert project.lines("status", run_dir, code=1) == [SAID]
    assert project.lines("watch", run_dir, code=1) == [SAID]
    assert "10 items failed" in project("collect", run_dir, code=1).stderr
    for words in (["status", run_dir, "--json"], ["watch", run_dir, "--json"]):
        seen = json.loads(project(*words, code=1).stdout)
        assert (seen["done"], seen["sound"], seen["items"], seen["failed_items"]) == (
            True, False, 30, 10,
        )  # fmt: skip
        assert [shard["failed_items"] for shard in seen["shards"]] == [3, 4, 3]
    seen = Run(run_dir).wait()
    assert (seen.done, seen.sound, seen.failed_items) == (True, False, 10)
    assert repr(seen) == f"RunStatus({run_dir!r}, {{'done': 3}}, 10 of 30 items failed)"

    (tmp_path / MENDED).touch()
    project("resume", run_dir, "--items", "failed")
    assert project.lines("watch", run_dir)[-1] == "3 of 3 shards done"
    assert project.lines("status", run_dir) == ["3 of 3 shards done"]
    assert project.json("status", run_dir)["sound"]
    assert len(project.lines("collect", run_dir)) == 30


def test_failed_items_of_a_run_that_goes_on_are_said_too(tmp_path: Path) -> None:
    run = ended(
        submit_noting(tmp_path, 30, config(on_error="record", max_errors=3), failing=FAILING)
    )
    assert states(run) == {0: "done", 1: "failed", 2: "done"}
    seen = run.status()
    assert (seen.failed, seen.failed_items, seen.sound) == ({0: 3, 1: 3, 2: 3}, 9, False)


def test_a_receipt_that_cannot_be_read_is_no_success(tmp_path: Path) -> None:
    project, run = Project(tmp_path, "local"), failed_run(tmp_path)
    Path(run.run_dir, layout.receipt(1)).write_text("{")
    [line] = project.lines("status", run.run_dir, code=1)
    assert line == (
        "3 of 3 shards done, 6 of 30 items failed, the receipt of shard 1 cannot be read"
    )
    assert project.json("status", run.run_dir, code=1)["unreadable_receipts"] == [1]


def test_items_are_lists_where_there_is_a_batch_size(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    words = ["runner.batch_size=4", "config.scale=x", "parallel.on_error=record"]
    project("submit", project.config, *words)  # and forward multiplies a list by it
    lines = project.watch(code=1)
    assert lines[-1] == "3 of 3 shards done, 3 of 3 items failed"


# --- on_error at a resume -------------------------------------------------------------------------


def test_a_resume_may_begin_to_record(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    run = ended(submit_noting(tmp_path, 30, config(), failing=FAILING))
    plan = Path(run.run_dir, layout.RUN).read_bytes()
    assert states(run) == dict.fromkeys(range(3), "failed")
    project("resume", run.run_dir, "--set", "on_error=record")
    assert project.lines("watch", run.run_dir, code=1)[-1] == SAID
    assert [receipt(run, rank).errors for rank in range(3)] == [3, 4, 3]
    with pytest.raises(FailedItems):
        run.collect()
    assert len(run.collect(errors="keep")) == 30
    # What was finished before it failed was not computed again; what failed there was, once.
    again = once([next(item for item in FAILING if item >= rank * 10) for rank in range(3)])
    assert noted(tmp_path, "begun") == once(range(30)) + again

    (tmp_path / MENDED).touch()
    run.resume(items="failed")
    assert ended(run).collect() == locally(tmp_path, 30)
    assert run.status().sound
    assert submission(run, 3).parallel["on_error"] == "record"  # a resume starts from the last one
    assert Path(run.run_dir, layout.RUN).read_bytes() == plan


def test_a_resume_may_set_a_limit_with_it(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 30, config(), failing=FAILING))
    run.resume(options={"on_error": "record", "max_errors": 3})
    assert states(ended(run)) == {0: "done", 1: "failed", 2: "done"}
    assert "max_errors is 3" in causes(run)[1]
    with pytest.raises(ConfigError, match=r"^parallel\.max_errors: needs on_error: record"):
        run.resume(options={"on_error": "stop", "max_errors": 3})
    with pytest.raises(ConfigError, match=r"^parallel\.on_error: .* got 'recrod'; did you mean"):
        run.resume(options={"on_error": "recrod"})


def test_what_stops_again_vouches_for_no_error(tmp_path: Path) -> None:
    limited = config(on_error="record", max_errors=3)
    run = ended(submit_noting(tmp_path, 30, limited, failing=FAILING))
    assert states(run) == {0: "done", 1: "failed", 2: "done"}
    run.resume(options={"on_error": "stop"})
    assert states(ended(run))[1] == "failed"
    assert causes(run)[1].startswith("forward failed at item 10: ")
    (tmp_path / MENDED).touch()
    run.resume()
    assert receipt(ended(run), 1).errors == 0


def test_run_shard_does_as_the_newest_submission_says(tmp_path: Path) -> None:
    project = Project(tmp_path, "local")
    run = ended(submit_noting(tmp_path, 30, config(), failing=FAILING))
    project("run-shard", run.run_dir, "0", code=1)
    run.resume([1], options={"on_error": "record"})
    ended(run)
    project("run-shard", run.run_dir, "0")
    assert receipt(run, 0).errors == 3


def test_a_mistyped_word_does_not_keep_errors_in_silence(tmp_path: Path) -> None:
    run = ended(submit_noting(tmp_path, 3, config(n_shards=1), failing=[1]))
    mistyped: dict[str, Any] = {"errors": "kep"}
    for collect in (run.collect, run.to_pandas, lambda **how: [*run.stream(**how)]):
        with pytest.raises(UsageError, match="errors: 'kep' is none of raise, keep"):
            collect(**mistyped)


def test_on_error_is_of_all_shards_of_a_submission(tmp_path: Path) -> None:
    overrides = [{"ranks": "1", "options": {"on_error": "record"}}]
    with pytest.raises(UsageError, match="on_error: cannot be changed for some shards; beside"):
        submit_noting(tmp_path, 30, config(overrides=overrides))
    assert not (tmp_path / "run").exists()


def test_the_same_call_with_another_on_error_names_the_resume(tmp_path: Path) -> None:
    ended(submit_noting(tmp_path, 30, config()))
    with pytest.raises(PlanMismatch) as caught:
        submit_noting(tmp_path, 30, config(on_error="record"))
    assert f"`espnet3 resume {tmp_path}/run --set on_error=record`" in str(caught.value)
