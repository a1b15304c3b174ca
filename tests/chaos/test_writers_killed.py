"""Real workers whose runner writes, ended by SIGKILL: at operations, at random, and two at once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.specs import layout
from espnet3.specs.models import RunSpec
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from tests.support.helpers import LONG, ROOT, noted, wait_for
from tests.support.worker_runs import (
    receipt_of,
    records_of,
    run_worker,
    submit_again,
    worker_command,
)
from tests.support.writing_worker_runs import (
    Appending,
    Opaque,
    require_written,
    write_writing_run,
)

RUNNERS = pytest.mark.parametrize("runner", [Opaque, Appending])
WORDS = "another attempt was first; this one's results are not used"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(tmp_path / "run")
    store.prepare(layout.FOLDERS)
    return store


def known_items(store: Store) -> set[int]:
    """The items of the only shard up to the last checkpoint of its files, read from the lines."""
    found: set[int] = set()
    for name in store.names(layout.RESULTS):
        lines = store.read(f"{layout.RESULTS}/{name}").split(b"\n")[:-1]
        known = [i for i, line in enumerate(lines, 1) if json.loads(line)["result"]]
        found |= {*range(max(known, default=0))}
    return found


def attempts_of(store: Store) -> set[str]:
    """The folders that attempts have written to."""
    folder = Path(store.root, layout.WRITTEN)
    return {each.name for each in folder.iterdir()} if folder.exists() else set()


@pytest.mark.slow
@pytest.mark.timeout(600)
@RUNNERS
def test_killed_at_random(store: Store, tmp_path: Path, runner: type[Opaque]) -> None:
    config = {"pace": 0.02, "notes": str(tmp_path / "notes")}
    every = 0.05 if runner is Appending else 30.0
    run = write_writing_run(
        store, config, range(40), runner=runner, n_shards=1, checkpoint_every=every
    )
    chance = random.Random(os.environ.get("SEED", "writers"))
    killed, number, killed_items = 0, 1, 0
    known_to: dict[int, set[int]] = {}
    while True:
        begun, known = noted(tmp_path, "notes"), known_items(store)
        known_to[number] = known
        process = subprocess.Popen(worker_command(store.root, number), cwd="/")
        if killed < (30 if LONG else 6):
            wait_for(lambda: noted(tmp_path, "notes") != begun or process.poll() is not None, "")  # noqa: B023
            time.sleep(chance.random() * 0.6)
            process.kill()
        process.wait(timeout=100)
        computed = noted(tmp_path, "notes") - begun
        if runner is Appending:
            assert not known & computed.keys(), "what was durable was computed again"
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        killed, number = killed + 1, number + 1
        killed_items = max(killed_items, computed.total())
        submit_again(store, run, number)
    require_written(store, run)
    receipt = receipt_of(store)
    assert f"000000.{receipt.attempt}" in attempts_of(store)
    assert killed >= 6 or (runner is Appending and killed > 1)
    if runner is Opaque:
        assert receipt.salvaged == 0
    else:
        # The last one may have been killed when its receipt was there.
        assert receipt.salvaged == len(known_to[int(receipt.attempt[:4])]) > 0


def run_dying(step: int, folder: Path, store: Store, number: int) -> int:
    """Run a worker that is killed at an operation; 0 lets it live. Returns its exit code."""
    words = worker_command(store.root, number)
    words = words[words.index("espnet3.worker") :]
    command = [sys.executable, "-m", "tests.chaos.dying_process", str(step)]
    done = subprocess.run(
        [*command, str(folder / "operations"), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


@pytest.mark.slow
@pytest.mark.timeout(1200)
@RUNNERS
def test_killed_at_operations(tmp_path: Path, runner: type[Opaque]) -> None:
    """A few in CI, else all; a third one then finds what two have left."""

    def new(name: str) -> tuple[Store, RunSpec]:
        store = open_store(tmp_path / name)
        store.prepare(layout.FOLDERS)
        run = write_writing_run(store, {}, runner=runner, n_shards=1, checkpoint_every=1e-6)
        return store, run

    assert run_dying(0, tmp_path, new("whole")[0], 1) == 0
    total = int((tmp_path / "operations").read_text())
    assert total > 50
    for step in range(1, total + 1, 1 if LONG else total // 5):
        store, run = new(f"run-{step}")
        if run_dying(step, tmp_path, store, 1):
            submit_again(store, run, 2)
            run_dying(step + total // 8, tmp_path, store, 2)
        submit_again(store, run, 3)
        done = run_worker(store.root, number=3)
        assert done.returncode == 0, done.stderr
        require_written(store, run)
        assert len(store.names(layout.RECEIPTS)) == 1


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that workers wait for."""
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


@RUNNERS
@pytest.mark.parametrize("dies", [False, True])
def test_two_live_copies(
    store: Store, tmp_path: Path, gate: Path, runner: type[Opaque], dies: bool
) -> None:
    notes = tmp_path / "notes"
    config: dict[str, Any] = {"at": 4, "do": "await", "file": str(gate), "notes": str(notes)}
    run = write_writing_run(store, config, runner=runner, n_shards=1, checkpoint_every=1e-6)
    submit_again(store, run, 2)
    copies = []
    for number in (1, 2):
        command = worker_command(store.root, number)
        copies.append(subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True))
        wait_for(lambda: noted(tmp_path, "notes")[4] == len(copies), "it is not at the gate")
    assert len(attempts_of(store)) == 2
    if dies:
        copies[0].kill()
    gate.touch()
    said = [copy.communicate(timeout=60)[1] for copy in copies]
    assert [copy.returncode for copy in copies] == [-9 if dies else 0, 0], said
    assert sum(WORDS in words for words in said) == (not dies)
    require_written(store, run)
    # The second one began with what the first one had synced.
    assert noted(tmp_path, "notes")[0] == (2 if runner is Opaque else 1)
    assert records_of(store, "failed") == []
