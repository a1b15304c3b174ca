"""Runs whose runner writes, as people see them: on S3, while they go on, repaired, debugged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import Receipt, RunSpec, Withdrawal, decode
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.user_code.main_module import WORKER_VARIABLE
from espnet3.worker.attempt import SchedulerTask
from espnet3.worker.task import run_task
from tests.support.commands import said
from tests.support.helpers import ended, kill_all, noted, parallel, states, wait_for
from tests.support.worker_runs import Setup, receipt_of
from tests.support.writing_worker_runs import (
    Appending,
    Opaque,
    expected_files,
    require_written,
    write_writing_run,
    written_files,
)

RUNNERS = pytest.mark.parametrize("runner", [Opaque, Appending])


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that workers wait for."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def submitted(folder: Path, config: dict[str, Any], runner: type[Opaque], **keys: Any) -> Run:
    keys = {"n_shards": 2, "n_workers": 2, "preflight": False, "checkpoint_every": 0.05, **keys}
    work = runner(Setup({**config, "notes": str(folder / "notes")}), output_dir=folder / "output")
    return submit_run(work, range(20), run_dir=folder / "run", parallel=parallel("local", **keys))


def spec_of(run: Run) -> tuple[Store, RunSpec]:
    directory = RunDirectory.open(run.run_dir)
    return directory.store, directory.run()


@RUNNERS
@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_a_run_that_goes_on_is_cut_short_and_resumed(
    tmp_path: Path, gate: Path, runner: type[Opaque], schedule: str
) -> None:
    config = {"at": 14, "do": "await", "file": str(gate), "pace": 0.03}
    run = submitted(tmp_path, config, runner, schedule=schedule, heartbeat=1, lease=3)
    wait_for(lambda: run.status().progress.done == 14, "14 items are not done")
    wait_for(lambda: states(run) == {0: "done", 1: "running"}, "the first shard is not done")
    assert run.status().progress.of_shards == {1: 4}
    assert said("status", run.run_dir).out.startswith("1 of 2 shards done, 1 running, 14 of 20")
    kill_all(run)
    ended(run)
    # What nobody can go on from is not done.
    assert run.status().progress.done == (10 if runner is Opaque else 14)
    run.resume()
    wait_for(lambda: noted(tmp_path, "notes")[14] == 2, "the second attempt is not at the gate")
    wait_for(lambda: run.status().progress.of_shards == {1: 4}, "it has not written so far")
    gate.touch()
    ended(run)
    require_written(*spec_of(run))
    assert run.status().progress.done == 20
    assert said("report", run.run_dir, "-o", str(tmp_path / "report.html")).code == 0
    receipt = receipt_of(spec_of(run)[0], 1)
    assert receipt.usage is not None
    assert receipt.usage.items + receipt.salvaged == receipt.records == 10
    again = sorted(item for item, n in noted(tmp_path, "notes").items() if n == 2)
    assert again == [*range(10 + receipt.salvaged, 15)]
    assert (receipt.salvaged == 0) == (runner is Opaque)


@RUNNERS
def test_a_shard_whose_files_are_damaged_is_repaired(tmp_path: Path, runner: type[Opaque]) -> None:
    run = ended(submitted(tmp_path, {}, runner))
    store, spec = spec_of(run)
    require_written(store, spec)
    before = receipt_of(store, 1)
    file = Path(store.root, layout.written(1, before.attempt), "arrays", "14.bin")
    file.write_bytes(b"\1" + file.read_bytes()[1:])
    assert run.resume(repair=True, patience=0).ranks == [1]
    ended(run)
    path = layout.withdrawal(1, 1)
    withdrawal = decode(Withdrawal, store.read(path), path)
    assert (withdrawal.reason, withdrawal.files) == ("damaged", [])
    assert withdrawal.cause == "arrays/14.bin has changed since its receipt was written"
    receipt = decode(Receipt, store.read(layout.receipt(1, 2)), "receipt")
    assert (receipt.salvaged, receipt.attempt == before.attempt) == (0, False)
    assert written_files(store, receipt) == expected_files(range(10, 20), 1)


def run_shard(store: Store, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "espnet3.worker.run_shard", store.locate(layout.shard(0))]
    return subprocess.run([*command, *words], capture_output=True, text=True, check=False)


def test_run_shard_writes_and_one_item_is_only_computed(tmp_path: Path) -> None:
    store = open_store(tmp_path / "run")
    store.prepare(layout.FOLDERS)
    run = write_writing_run(store, {"notes": str(tmp_path / "notes")}, n_shards=1)
    before = {*Path(store.root).rglob("*")}
    done = run_shard(store, "--item", "3")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Value, which is not shown" in done.stderr
    assert {*Path(store.root).rglob("*")} == before
    assert noted(tmp_path, "notes") == {3: 1}
    assert run_shard(store).returncode == 0
    require_written(store, run)


def test_work_joins(tmp_path: Path, gate: Path) -> None:
    """`espnet3 work` takes whole shards, and finds nothing to share."""
    config = {"at": 14, "do": "await", "file": str(gate)}
    keys: Any = {"schedule": "dynamic", "n_workers": 1, "n_shards": 4, "heartbeat": 1, "lease": 3}
    run = submitted(tmp_path, config, Opaque, **keys)
    wait_for(lambda: noted(tmp_path, "notes")[14], "the worker is not at the gate")
    assert said("work", run.run_dir).code == 0
    gate.touch()
    ended(run)
    require_written(*spec_of(run))
    assert noted(tmp_path, "notes").total() == 20
    names = spec_of(run)[0].names(layout.CLAIMS)
    assert len([*filter(layout.parse_claim, names)]) == 4


@pytest.mark.s3
@pytest.mark.filterwarnings("ignore::espnet3.submit.process_record.NotTakenOver")
@RUNNERS
def test_on_s3_the_folder_is_uploaded(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, runner: type[Opaque]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(WORKER_VARIABLE, "")  # which this process is for a moment
    store = open_store(f"{bucket}/{tmp_path.name}")
    store.prepare(layout.FOLDERS)
    run = write_writing_run(store, {}, range(20), runner=runner, n_shards=2)
    place = SchedulerTask(0, "7_0")
    code = run_task(RunDirectory(store), run, [0, 1], 1, place, may_have_predecessors=False)
    assert code == 0
    require_written(store, run)
    assert [*tmp_path.iterdir()] == []
    document = json.loads(store.read(layout.receipt(1)))
    assert os.path.abspath(document["written"]["folder"]).startswith(str(tmp_path))
