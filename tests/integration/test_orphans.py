"""A run's folder is removed by hand while it lives: whatever works for it ends by itself, and soon.

Items wait for ever here, so that nothing ends because it is through.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError
from espnet3.run import Run, submit_run
from espnet3.worker import exit_codes
from tests.support.helpers import noted, parallel, processes_of, python, submit_noting, wait_for
from tests.support.runners import GATE, Noting, Workshop

pytestmark = pytest.mark.usefixtures("gate_opens_at_last")

SOON = 20  # seconds; the heartbeat is far below
HEARTBEAT = 0.4


def start(tmp_path: Path, *, gated: int, n_shards: int = 2, n_workers: int = 2, **keys: Any) -> Run:
    config = parallel(
        "local", n_workers=n_workers, n_shards=n_shards, heartbeat=HEARTBEAT,
        checkpoint_every=3600, **keys,
    )  # fmt: skip
    run = submit_noting(tmp_path, n_shards, config, gated=range(gated))
    wait_for(lambda: len(noted(tmp_path, "begun")) >= min(gated, n_workers), "nothing is begun")
    return run


def require_all_end(run: Run) -> None:
    assert processes_of(run)
    shutil.rmtree(run.run_dir)
    wait_for(lambda: not processes_of(run), "its processes do not end", SOON)
    assert not os.path.lexists(run.run_dir)


def command(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "espnet3", *words], stderr=subprocess.DEVNULL
    )


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
def test_in_the_midst_of_an_item(tmp_path: Path, schedule: str) -> None:
    """What waits behind it is not begun."""
    run = start(tmp_path, gated=5, n_shards=5, schedule=schedule)
    require_all_end(run)
    assert len(noted(tmp_path, "begun")) == 2
    assert not noted(tmp_path, "finished")


def test_a_worker_that_waits_for_others(tmp_path: Path) -> None:
    """It has claimed all that is free, and looks whether something comes free again."""
    run = start(tmp_path, gated=1, n_shards=1, n_workers=1, schedule="dynamic")
    joined = command("work", run.run_dir)
    workers = Path(run.run_dir, "workers")
    wait_for(lambda: len([*workers.glob("*.json")]) == 2, "nobody joins")
    require_all_end(run)
    assert joined.wait(60) != 0


def test_a_finisher(tmp_path: Path) -> None:
    run = start(tmp_path, gated=2, finish={"notify": f"touch {tmp_path}/told"})
    require_all_end(run)
    assert not (tmp_path / "told").exists()


def test_a_shard_that_is_computed_in_the_foreground(tmp_path: Path) -> None:
    run = start(tmp_path, gated=1, n_shards=1, n_workers=1)
    run.cancel()
    wait_for(lambda: not processes_of(run), "a process lives on")
    shard = f"{run.run_dir}/shards/000000.json"
    alone = command("run-shard", shard)
    wait_for(lambda: noted(tmp_path, "begun")[0] == 2, "it does not begin")
    shutil.rmtree(run.run_dir)
    assert alone.wait(SOON) != 0


def test_another_run_takes_the_place(tmp_path: Path) -> None:
    run = start(tmp_path, gated=2)
    old = {*processes_of(run)}
    shutil.rmtree(run.run_dir)
    again = tmp_path / "again"
    again.mkdir()
    runner = Noting(Workshop({"folder": str(again)}))
    submit_run(runner, range(3), run_dir=run.run_dir, parallel=parallel("local", n_shards=1))
    wait_for(lambda: not old & {*processes_of(run)}, "the old ones do not end", SOON)
    wait_for(lambda: Run(run.run_dir).status().done, "the new one does not end")
    assert len(Run(run.run_dir).collect()) == 3


def test_cancel_still_finds_them(tmp_path: Path) -> None:
    """By the directory on their command lines; those of others are left alone."""
    config = parallel("local", n_workers=1, n_shards=1, heartbeat=3600, lease=7200)
    run = submit_noting(tmp_path, 1, config, gated=[0])
    beside = tmp_path / "beside"
    beside.mkdir()
    other = submit_noting(beside, 1, config, gated=[0])
    for folder in (tmp_path, beside):
        wait_for(lambda folder=folder: noted(folder, "begun"), "nothing is begun")  # type: ignore[misc]
    shutil.rmtree(run.run_dir)
    done = python("-m", "espnet3", "cancel", run.run_dir)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cancelled\t")
    wait_for(lambda: not processes_of(run), "its processes do not end")
    assert len(processes_of(other)) == 2
    (beside / GATE).touch()
    with pytest.raises(RunDirectoryError, match="does not exist, and no job is known to work"):
        run.cancel()


STUCK = """
import signal, sys, time
from espnet3.run_dir.directory import RunDirectory
from espnet3.worker import removal_watch
from espnet3.worker.signals import Signals

removal_watch.GRACE = 0.1
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
with Signals(), removal_watch.RemovalWatch(RunDirectory.open(sys.argv[1]), "0123456789ab", 0.1):
    while True:
        time.sleep(3600)
"""


def test_what_does_not_end_by_itself_is_ended(tmp_path: Path) -> None:
    done = python("-c", STUCK, str(tmp_path / "gone"))
    assert done.returncode == exit_codes.INTERRUPTED, done
