"""One task: environment, shards, receipts, and what is recorded when the user's code fails."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import orjson
import pytest

from espnet3.parallel import BaseRunner
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import decode_line
from espnet3.specs import layout
from espnet3.specs.models import RunSpec
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.main import main
from espnet3.worker.task import run_task
from tests.support.worker_runs import (
    TROUBLES,
    receipt_of,
    records_of,
    result_lines,
    run_worker,
    submit_again,
    write_run,
)


def run_here(store: Store, run: RunSpec, *, ranks: list[int] | None = None, again: int = 0) -> int:
    return run_task(
        RunDirectory(store),
        run,
        list(range(run.world_size)) if ranks is None else ranks,
        1 + again,
        SchedulerTask(0, "4711_0"),
        may_have_predecessors=bool(again),
    )


def results_of(store: Store, rank: int = 0) -> list[Any]:
    return [decode_line(line, "", unpickle=True).result for line in result_lines(store, rank)]


def test_every_shard_gets_its_results_and_a_receipt_that_vouches_for_them(store: Store) -> None:
    run = write_run(store, {}, range(7), n_shards=3)
    assert run_here(store, run) == exit_codes.DONE
    position = 0
    for rank in range(3):
        receipt = receipt_of(store, rank)
        results = results_of(store, rank)
        assert results == [2 * item for item in range(position, position + len(results))]
        assert (receipt.records, receipt.errors, receipt.salvaged) == (len(results), 0, 0)
        assert receipt.fingerprint == run.fingerprint
        position += len(results)
    assert position == 7
    started = records_of(store, "started")
    assert [record.rank for record in started] == [0, 1, 2]
    assert {(record.task, record.job_id, record.pid) for record in started} == {
        (0, "4711_0", os.getpid())
    }


def test_shards_with_a_receipt_are_passed_over_without_building_the_environment(
    store: Store,
) -> None:
    run = write_run(store, {}, n_shards=2)
    assert run_here(store, run, ranks=[1]) == exit_codes.DONE
    receipt = store.read(layout.receipt(1))
    assert run_here(store, run) == exit_codes.DONE
    assert store.read(layout.receipt(1)) == receipt
    bad = run.model_copy(update={"working_directory": "/no/such/folder"})
    assert run_here(store, bad) == exit_codes.DONE
    assert len(records_of(store, "started")) == 2


class Spoiler(BaseRunner):
    """Changes the items that it gets."""

    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        last = idx.pop("b") if isinstance(idx, dict) else idx.pop()
        return [last, len(idx)]


@pytest.mark.parametrize(
    ("items", "batch_size"), [([{"a": 1, "b": [2]}] * 2, None), ([[1], [1, 2]], None), ("abc", 2)]
)
def test_what_forward_does_to_an_item_stays_out_of_the_results(
    store: Store, items: Any, batch_size: int | None
) -> None:
    run = write_run(store, {}, list(items), runner=Spoiler, batch_size=batch_size)
    assert run_here(store, run) == exit_codes.DONE
    found = [decode_line(line, "").item for line in result_lines(store)]
    assert found == ([["a", "b"], ["c"]] if batch_size else items)


@pytest.mark.parametrize(("child", "code"), [("exits", 3), ("raises", 1), ("returns", 0)])
@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_a_child_that_forward_forked_has_no_part_in_the_shard(
    store: Store, child: str, code: int, on_error: str
) -> None:
    write_run(store, {"at": 1, "do": "fork", "child": child}, range(3), on_error=on_error)
    done = run_worker(store.root)
    assert done.returncode == exit_codes.DONE, done.stderr
    assert [decode_line(line, "").result for line in result_lines(store)] == [0, code, 4]
    assert receipt_of(store).errors == 0
    assert records_of(store, "failed") == []
    assert ("ValueError: of the child" in done.stderr) == (child == "raises")


def test_batches_are_items(store: Store) -> None:
    class_results = []
    run = write_run(store, {}, range(5), runner=Sums, batch_size=2, n_shards=2)
    assert run_here(store, run) == exit_codes.DONE
    for rank in range(2):
        class_results += results_of(store, rank)
    assert class_results == [1, 5, 4]
    assert [orjson.loads(line)["item"] for line in result_lines(store, 1)] == [[2, 3], [4]]


class Sums(BaseRunner):
    @staticmethod
    def forward(idx: Any, **env: Any) -> Any:
        return sum(idx)


# --- forward fails ------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
def test_stop_fails_the_shard_and_keeps_what_was_done(store: Store, trouble: str) -> None:
    run = write_run(store, {"at": 4, "do": "raise", "trouble": trouble}, range(9), n_shards=3)
    assert run_here(store, run) == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert (record.rank, record.item, record.items_done) == (1, 4, 1)
    assert record.error is not None
    kind = {"surrogate": "ValueError", "group": "ExceptionGroup"}.get(trouble, trouble)
    assert record.error.type == kind
    assert "in _raise" in record.error.traceback
    assert record.cause.startswith(f"forward failed at item 4: {kind}")
    assert "\n" not in record.cause
    assert results_of(store, 1) == [6]
    assert not store.exists(layout.receipt(1))
    # The shards after it are computed all the same.
    assert store.exists(layout.receipt(0))
    assert store.exists(layout.receipt(2))
    # A second attempt goes on from there; the item still fails.
    assert run_here(store, run, again=1) == exit_codes.FAILED
    assert [record.items_done for record in records_of(store, "failed")] == [1, 1]
    assert results_of(store, 1) == [6]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_record_goes_on_and_counts_the_errors(store: Store, trouble: str) -> None:
    run = write_run(
        store, {"at": 4, "do": "raise", "trouble": trouble}, range(6), on_error="record"
    )
    assert run_here(store, run) == exit_codes.DONE
    receipt = receipt_of(store)
    assert (receipt.records, receipt.errors) == (6, 1)
    records = [decode_line(line, "") for line in result_lines(store)]
    assert [record.item for record in records] == list(range(6))
    [error] = [record.error for record in records if record.error is not None]
    assert error.type in (trouble, "ValueError", "ExceptionGroup")
    assert "in _raise" in error.traceback
    assert records_of(store, "failed") == []


def test_a_result_that_json_cannot_hold_is_an_error_of_its_item(store: Store) -> None:
    run = write_run(store, {"at": 1, "do": "opaque"})
    assert run_here(store, run) == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert record.item == 1
    assert "type object is not JSON" in record.cause
    assert "`results: pickle`" in record.cause


def test_such_a_result_can_be_recorded_too(store: Store) -> None:
    run = write_run(store, {"at": 1, "do": "opaque"}, on_error="record")
    assert run_here(store, run) == exit_codes.DONE
    assert receipt_of(store).errors == 1


def test_salvaged_errors_are_counted_again(store: Store) -> None:
    config = {"at": 1, "do": "raise", "trouble": "ValueError"}
    run = write_run(store, config, on_error="record")
    assert run_here(store, run) == exit_codes.DONE
    Path(store.root, layout.receipt(0)).unlink()
    assert run_here(store, run, again=1) == exit_codes.DONE
    receipt = receipt_of(store)
    assert (receipt.records, receipt.salvaged, receipt.errors) == (6, 6, 1)
    assert len(store.names(layout.RESULTS)) == 1


# --- the environment fails ----------------------------------------------------------------------


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_provider_that_raises_fails_all_shards_of_the_task(store: Store, trouble: str) -> None:
    run = write_run(store, {"raises": trouble}, n_shards=3)
    assert run_here(store, run, ranks=[0, 2]) == exit_codes.FAILED
    records = records_of(store, "failed")
    assert [record.rank for record in records] == [0, 2]
    for record in records:
        assert "Setup failed to build the environment" in record.cause
        assert "\n" not in record.cause
        assert record.error is not None
        assert "build_env_local" in record.error.traceback
    assert store.names(layout.RESULTS) == []


@pytest.mark.parametrize("returned", [None, [1], "env", 3])
def test_a_setup_that_gives_no_dict_fails_all_shards(store: Store, returned: Any) -> None:
    run = write_run(store, {"returns": returned}, n_shards=2)
    assert run_here(store, run) == exit_codes.FAILED
    for record in records_of(store, "failed"):
        assert "the worker setup function must return a dict" in record.cause
        assert type(returned).__name__ in record.cause
    assert len(records_of(store, "failed")) == 2


def test_an_environment_that_forward_does_not_take_is_an_error_of_the_item(store: Store) -> None:
    run = write_run(store, {"returns": {"dataset": 1}})
    assert run_here(store, run) == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert record.cause.startswith("forward failed at item 0: TypeError: ")
    assert "dataset" in record.cause


def test_a_class_that_is_gone_fails_all_shards(store: Store) -> None:
    run = write_run(store, {}, n_shards=2)
    gone = run.runner.model_copy(update={"qualname": "Gone"})
    assert run_here(store, run.model_copy(update={"runner": gone})) == exit_codes.FAILED
    records = records_of(store, "failed")
    assert [record.rank for record in records] == [0, 1]
    assert all("Gone: cannot be imported: AttributeError" in r.cause for r in records)


def test_a_working_directory_that_is_not_here_is_named(store: Store) -> None:
    run = write_run(store, {})
    bad = run.model_copy(update={"working_directory": "/no/such/folder"})
    assert run_here(store, bad) == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert record.cause.startswith("'/no/such/folder': the submitter's working directory")
    assert "submit from a folder that all nodes share" in record.cause


# --- what forward may do to its process ---------------------------------------------------------


@pytest.mark.parametrize("deed", ["chdir", "print", "close streams", "close descriptors"])
@pytest.mark.parametrize("ending", ["done", "failed"])
def test_forward_may_treat_its_process_badly(store: Store, deed: str, ending: str) -> None:
    run = write_run(store, {"at": 2, "do": deed}, n_shards=3, shards_per_job=3)
    if ending == "failed":  # what comes afterwards must still be recorded
        Path(store.root, layout.shard(2)).unlink()
    done = run_worker(store.root)
    assert done.returncode == (exit_codes.DONE if ending == "done" else exit_codes.FAILED)
    assert results_of(store, 1) == [4, 6]
    assert receipt_of(store, 1).records == 2
    if ending == "failed":
        [record] = records_of(store, "failed")
        assert record.rank == 2
        assert "no such file" in record.cause
    else:
        assert results_of(store, 2) == [8, 10]
    if deed == "print":
        assert done.stdout == "from forward\n"
        assert "and from below\n" in done.stderr
    assert run.world_size == 3


def test_the_second_finisher_discards_its_own(store: Store, tmp_path: Path) -> None:
    write_run(store, {"at": 5, "do": "overtake", "folder": str(tmp_path)})
    done = run_worker(store.root)
    assert done.returncode == exit_codes.DONE
    assert "another attempt was first; this one's results are not used" in done.stderr
    started = records_of(store, "started")
    assert len(started) == 2
    assert receipt_of(store).attempt == started[1].attempt  # the one that overtook
    assert len(store.names(layout.RESULTS)) == 2
    assert set(store.names(layout.RECEIPTS)) == {"000000.json"}
    assert run_worker(store.root).returncode == exit_codes.DONE
    assert len(records_of(store, "started")) == 2


# --- the command line ---------------------------------------------------------------------------


def test_a_task_computes_its_own_ranks(store: Store) -> None:
    write_run(store, {}, range(10), n_shards=5, shards_per_job=2)
    for task, ranks in ((1, {2, 3}), (2, {2, 3, 4}), (0, {0, 1, 2, 3, 4})):
        assert main([store.root, "0001", "--task", str(task)], {}) == exit_codes.DONE
        assert set(layout.newest_receipts(store.names(layout.RECEIPTS), 5)) == ranks


def test_a_resume_goes_on_and_a_first_submission_does_not_look(store: Store) -> None:
    run = write_run(store, {"at": 3, "do": "raise", "trouble": "ValueError"})
    assert main([store.root, "1", "--task", "0"], {}) == exit_codes.FAILED
    submit_again(store, run, 2)
    Path(store.root, layout.RUN).write_bytes(store.read(layout.RUN).replace(b'"at":3', b'"at":-1'))
    assert main([store.root, "2", "--task", "0"], {}) == exit_codes.DONE
    receipt = receipt_of(store)
    assert (receipt.records, receipt.salvaged) == (6, 3)
    assert [part.first for part in receipt.parts] == [0, 3]
    assert results_of(store) == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(("task", "code"), [("3", 2), ("-1", 2)])
def test_a_task_that_is_not_there(
    store: Store, task: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(store, {}, n_shards=3)
    assert main([store.root, "1", "--task", task], {}) == code
    assert capsys.readouterr().err.count("\n") == 1
