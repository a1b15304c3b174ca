"""Shards whose runner writes its results: the folder of an attempt, and what vouches for it."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import orjson
import pytest

from espnet3.errors import WriterFailed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.specs import layout
from espnet3.specs.codec import encode
from espnet3.specs.models import Receipt, RunSpec, Withdrawal, decode, now
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.worker import exit_codes
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.computing import NO_LIMITS, Limits
from espnet3.worker.dynamic import run_claimed
from espnet3.worker.task import run_task
from espnet3.worker.terms import Terms
from tests.support.worker_runs import (
    DEEDS,
    receipt_of,
    records_of,
    result_lines,
    run_worker,
    submit_again,
)
from tests.support.writing_worker_runs import (
    Appending,
    Opaque,
    calls,
    expected_files,
    require_written,
    write_writing_run,
    written_files,
)

RUNNERS = pytest.mark.parametrize("runner", [Opaque, Appending])


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def run_here(store: Store, run: RunSpec, *, again: int = 0, limits: Limits = NO_LIMITS) -> int:
    return run_task(
        RunDirectory(store),
        run,
        list(range(run.world_size)),
        1 + again,
        SchedulerTask(0, "4711_0"),
        may_have_predecessors=bool(again),
        limits=limits,
    )


def lines_of(store: Store, rank: int = 0) -> list[Any]:
    return [orjson.loads(line) for line in result_lines(store, rank)]


def folders(store: Store) -> list[Path]:
    return sorted(Path(store.root, layout.WRITTEN).iterdir())


@RUNNERS
@pytest.mark.parametrize("results", ["json", "pickle"])
def test_results_reach_writers_as_they_are_and_the_receipt_vouches_for_the_files(
    store: Store, runner: type[Opaque], results: str
) -> None:
    run = write_writing_run(store, {}, range(7), runner=runner, n_shards=3, results=results)
    assert run_here(store, run) == exit_codes.DONE
    require_written(store, run)
    for rank in range(3):
        receipt = receipt_of(store, rank)
        items = range(*run.bounds_of(rank))
        assert receipt.written is not None
        folder = store.locate(layout.written(rank, receipt.attempt))
        assert receipt.written.folder == os.path.relpath(folder)  # as the output folder is
        assert (receipt.records, receipt.salvaged, receipt.errors) == (len(items), 0, 0)
        assert receipt.usage is not None
        assert receipt.usage.items == len(items)
        assert lines_of(store, rank) == [{"item": i, "result": None} for i in items]
    assert [folder.name for folder in folders(store)] == [
        f"{rank:06d}.{receipt_of(store, rank).attempt}" for rank in range(3)
    ]
    assert stat.S_IMODE(folders(store)[0].stat().st_mode) & stat.S_IWOTH == 0


def test_a_run_without_writers_has_no_folder_for_them(store: Store) -> None:
    run = write_writing_run(store, {}, n_shards=1).model_copy(update={"writers": None})
    assert run_here(store, run) == exit_codes.FAILED  # its results are not JSON
    assert not Path(store.root, layout.WRITTEN).exists()


@RUNNERS
def test_an_item_that_fails_is_recorded_and_not_written(store: Store, runner: type[Opaque]) -> None:
    config = {"at": 3, "do": "raise", "trouble": "ValueError"}
    run = write_writing_run(store, config, runner=runner, n_shards=1, on_error="record")
    assert run_here(store, run) == exit_codes.DONE
    receipt = receipt_of(store)
    assert (receipt.records, receipt.errors) == (6, 1)
    assert lines_of(store)[3]["error"]["type"] == "ValueError"
    assert written_files(store, receipt) == expected_files([0, 1, 2, 4, 5], 0)


def test_a_skipped_item_is_not_written(store: Store) -> None:
    run = write_writing_run(store, {}, n_shards=1)
    assert run_here(store, run, limits=Limits(skip={0: {2: "it kills"}})) == exit_codes.DONE
    receipt = receipt_of(store)
    assert (receipt.errors, calls) == (1, [0, 1, 3, 4, 5])
    assert written_files(store, receipt) == expected_files(calls, 0)


@RUNNERS
@pytest.mark.parametrize("on_error", ["stop", "record"])
@pytest.mark.parametrize("trouble", ["ValueError", "SystemExit"])
@pytest.mark.parametrize(
    ("hook", "item", "done"),
    [("open_writers", None, 0), ("write_record", 4, 4), ("close_writers", None, 6)],
)
def test_a_hook_that_raises_ends_the_attempt(
    store: Store,
    runner: type[Opaque],
    hook: str,
    item: int | None,
    done: int,
    trouble: str,
    on_error: str,
) -> None:
    where = hook if item is None else f"{hook} {item}"
    config = {"in": where, "do": "raise", "trouble": trouble}
    run = write_writing_run(store, config, runner=runner, n_shards=1, on_error=on_error)
    assert run_here(store, run) == exit_codes.FAILED
    assert store.names(layout.RECEIPTS) == []
    [record] = records_of(store, "failed")
    words = {"ValueError": "ValueError: two lines", "SystemExit": "SystemExit: 0"}[trouble]
    assert record.cause == str(WriterFailed(hook, item, words))
    assert (record.item, record.items_done) == (item, done)
    assert record.error is not None
    assert record.error.type == trouble
    assert hook in record.error.traceback


@RUNNERS
@pytest.mark.parametrize("where", ["open_writers", "write_record 4", "close_writers"])
@pytest.mark.parametrize("do", ["kill", "kill and go on", "swallow", "kill and raise"])
@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_nothing_is_published_after_a_signal(
    store: Store, runner: type[Opaque], where: str, do: str, on_error: str
) -> None:
    config = {"in": where, "do": do, "signal": "SIGTERM"}
    run = write_writing_run(store, config, runner=runner, n_shards=1, on_error=on_error)
    assert run_here(store, run) == exit_codes.INTERRUPTED
    assert store.names(layout.RECEIPTS) == []
    assert [record.cause for record in records_of(store, "interrupted")] == ["signal SIGTERM"]
    assert records_of(store, "failed") == []


def test_a_child_that_a_hook_forked_has_no_part_in_the_shard(store: Store) -> None:
    for where in ("open_writers", "write_record 1", "close_writers"):
        inner = open_store(f"{store.root}/{where.split()[0]}")
        inner.prepare(layout.FOLDERS)
        config = {"in": where, "do": "fork", "child": "exits"}
        run = write_writing_run(inner, config, n_shards=1, on_error="record")
        done = run_worker(inner.root)
        assert done.returncode == exit_codes.DONE, done.stderr
        require_written(inner, run)
        assert records_of(inner, "failed") == []


def test_an_opaque_shard_is_computed_from_its_first_item_again(store: Store) -> None:
    config = {"at": 4, "do": "raise", "trouble": "ValueError"}
    run = write_writing_run(store, config, n_shards=1, checkpoint_every=1e-9)
    assert run_here(store, run) == exit_codes.FAILED
    run.provider.args[0] = _config({}, run)
    calls.clear()
    submit_again(store, run, 2)
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(6)]
    require_written(store, run)
    assert (receipt_of(store).salvaged, len(folders(store))) == (0, 2)


def _config(config: dict[str, Any], run: RunSpec) -> Any:
    """The provider's argument, where it is another config."""
    return run.provider.args[0].model_copy(update={"value": config})


def fail_and_mend(store: Store, **config: Any) -> RunSpec:
    """A run that fails at some item, after checkpoints at each, and would not again."""
    broken = {"at": 4, "do": "raise", "trouble": "ValueError", **config}
    run = write_writing_run(store, broken, runner=Appending, n_shards=1, checkpoint_every=1e-9)
    assert run_here(store, run) == exit_codes.FAILED
    calls.clear()
    run.provider.args[0] = _config({}, run)
    return run


def test_where_files_only_grow_the_next_attempt_goes_on_behind_the_last_checkpoint(
    store: Store,
) -> None:
    run = fail_and_mend(store)
    sizes = [line["result"]["written"] for line in lines_of(store)]
    assert sizes[0] == {"arrays/0.bin": 0, "hyp.scp": 7, "paths.scp": 15}
    [old] = folders(store)
    (old / "hyp.scp").write_bytes((old / "hyp.scp").read_bytes() + b"half of what was bu")
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [4, 5]
    require_written(store, run)
    receipt = receipt_of(store)
    assert (receipt.salvaged, receipt.records, len(receipt.parts)) == (4, 6, 1)
    assert receipt.usage is not None
    assert receipt.usage.items == 2


def test_what_a_writer_that_cannot_be_flushed_may_hold_is_computed_again(store: Store) -> None:
    run = fail_and_mend(store, unflushed=True)
    assert [line["result"] for line in lines_of(store)] == [None] * 4
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(6)]


class Archived(Appending):
    """Has a writer that writes when it is closed, and cannot be flushed."""

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        class Archive:
            def __init__(self, lines: Any) -> None:
                self.write, self.close = lines.write, lines.close

        writers = Opaque.open_writers(shard_dir, **env)
        return {**writers, "text": Archive(writers["text"])}


class OwnState(Appending):
    """Has its writers where nobody else looks."""

    @classmethod
    def init_state(cls, *args: Any, **env: Any) -> dict[str, Any]:
        state = super().init_state(*args, **env)
        return {"mine": state.pop("_writers"), **state}

    @classmethod
    def reduce_state(cls, state: dict[str, Any], result: Any, **env: Any) -> dict[str, Any]:
        cls.write_record(state["mine"], result, state, **env)
        return state

    @classmethod
    def finalize_state(cls, state: dict[str, Any], **env: Any) -> dict[str, Any]:
        cls.close_writers(state["mine"], state, **env)
        return state


@pytest.mark.parametrize("runner", [Archived, OwnState])
def test_where_writers_may_hold_something_nothing_is_gone_on_from(
    store: Store, runner: type[Opaque]
) -> None:
    broken = {"at": 4, "do": "raise", "trouble": "ValueError"}
    run = write_writing_run(store, broken, runner=runner, n_shards=1, checkpoint_every=1e-9)
    assert run_here(store, run) == exit_codes.FAILED
    run.provider.args[0] = _config({}, run)
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(5), *range(6)]
    require_written(store, run)


@pytest.mark.parametrize("what", ["shorter", "gone", "a pipe", "no folder"])
def test_where_what_was_written_is_not_there_it_begins_anew(store: Store, what: str) -> None:
    run = fail_and_mend(store)
    [old] = folders(store)
    file = old / "hyp.scp"
    if what == "shorter":
        file.write_bytes(file.read_bytes()[:-1])
    elif what == "no folder":
        old.rename(store.root + "/elsewhere")
    else:
        file.unlink()
        if what == "a pipe":
            os.mkfifo(file)
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(6)]
    require_written(store, run)


def test_a_failed_item_that_is_to_be_tried_again_is_where_it_begins(store: Store) -> None:
    config = {"at": 2, "do": "raise", "trouble": "ValueError", "in": "write_record 5"}
    run = write_writing_run(
        store, config, runner=Appending, n_shards=1, on_error="record", checkpoint_every=1e-9
    )
    assert run_here(store, run) == exit_codes.FAILED
    assert "error" in lines_of(store)[2]
    run.provider.args[0] = _config({}, run)
    calls.clear()
    limits = Limits(errors_from_submission=2)
    assert run_here(store, run, again=1, limits=limits) == exit_codes.DONE
    assert calls == [2, 3, 4, 5]
    require_written(store, run)


def test_a_recorded_error_is_kept_where_files_only_grow(store: Store) -> None:
    config = {"at": 2, "do": "raise", "trouble": "ValueError", "in": "write_record 5"}
    run = write_writing_run(
        store, config, runner=Appending, n_shards=1, on_error="record", checkpoint_every=1e-9
    )
    assert run_here(store, run) == exit_codes.FAILED
    run.provider.args[0] = _config({}, run)
    calls.clear()
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [5]
    receipt = receipt_of(store)
    assert (receipt.errors, receipt.salvaged) == (1, 5)
    assert written_files(store, receipt) == expected_files([0, 1, 3, 4, 5], 0)


@RUNNERS
def test_a_shard_whose_files_are_damaged_is_computed_again_from_its_first_item(
    store: Store, runner: type[Opaque]
) -> None:
    run = write_writing_run(store, {}, runner=runner, n_shards=1, checkpoint_every=1e-9)
    assert run_here(store, run) == exit_codes.DONE
    [folder] = folders(store)
    (folder / "hyp.scp").write_bytes((folder / "hyp.scp").read_bytes().replace(b"utt0", b"utt7"))
    withdrawal = Withdrawal(
        rank=0, generation=1, created=now(), by=this_process(), reason="damaged", cause="hyp.scp"
    )
    store.prepare([layout.WITHDRAWALS])
    store.create(layout.withdrawal(0, 1), encode(withdrawal))
    calls.clear()
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(6)]
    receipt = decode(Receipt, store.read(layout.receipt(0, 2)), "receipt")
    assert written_files(store, receipt) == expected_files(range(6), 0)


@RUNNERS
def test_an_object_store_gets_the_folder_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runner: type[Opaque]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    store = open_store(f"memory://{tmp_path.name}/run")
    store.prepare(layout.FOLDERS)
    config = {"at": 4, "do": "raise", "trouble": "ValueError"}
    run = write_writing_run(store, config, runner=runner, n_shards=1, checkpoint_every=1e-9)
    assert run_here(store, run) == exit_codes.FAILED
    run.provider.args[0] = _config({}, run)
    calls.clear()
    assert run_here(store, run, again=1) == exit_codes.DONE
    assert calls == [*range(6)]  # no checkpoint of files is anywhere
    require_written(store, run)
    assert all(line["result"] is None for line in lines_of(store)[4:])
    folder = receipt_of(store).written
    assert folder is not None
    assert os.path.abspath(folder.folder).startswith(str(tmp_path))
    assert [*tmp_path.iterdir()] == []  # temporary folders are gone


@pytest.mark.parametrize("kind", ["link to a folder", "broken link", "pipe", "no UTF-8"])
def test_what_cannot_be_vouched_for_is_an_error(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave(idx: Any, config: dict[str, Any]) -> None:
        [folder] = folders(store)
        if kind == "pipe":
            os.mkfifo(folder / "odd")
        elif kind == "no UTF-8":
            Path(os.fsdecode(os.fsencode(folder) + b"/odd\xff")).touch()
        else:
            (folder / "odd").symlink_to("/" if kind == "link to a folder" else "/no/where")

    monkeypatch.setitem(DEEDS, "leave", leave)
    run = write_writing_run(store, {"in": "close_writers", "do": "leave"}, n_shards=1)
    assert run_here(store, run) == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert "odd" in record.cause
    assert store.names(layout.RECEIPTS) == []


@RUNNERS
@pytest.mark.parametrize("speculate", [False, True])
def test_whole_shards_are_claimed(store: Store, runner: type[Opaque], speculate: bool) -> None:
    run = write_writing_run(store, {}, range(9), runner=runner, n_shards=3, schedule="dynamic")
    store.prepare([layout.CLAIMS, layout.WORKERS])
    outcome = run_claimed(
        RunDirectory(store), run, range(3), 1, SchedulerTask(0, "4711_0"),
        terms=Terms(lease=1.0, heartbeat=0.5, speculate=speculate), n_places=1,
    )  # fmt: skip
    assert (outcome.code, outcome.shards_done, outcome.items_done) == (exit_codes.DONE, 3, 9)
    require_written(store, run)
