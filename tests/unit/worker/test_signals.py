"""Signals of a scheduler, sent by real kills to real workers at every kind of moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from espnet3.worker.signals import HANDLED, Interrupted, Signals
from tests.support.worker_runs import (
    eventually,
    receipt_of,
    records_of,
    result_lines,
    run_worker,
    submit_again,
    worker_command,
    write_run,
)

SIGNALS = ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP"]


def items_done(store: Store, rank: int = 0) -> list[Any]:
    return [orjson.loads(line)["item"] for line in result_lines(store, rank)]


def check_interrupted(store: Store, name: str, done: list[int]) -> None:
    """One record, which says by what and how far; all that was done is there to go on from."""
    [record] = records_of(store, "interrupted")
    assert record.cause == f"signal {name}"
    assert record.items_done == len(done)
    assert items_done(store) == done
    assert not store.exists(layout.receipt(0))
    assert records_of(store, "failed") == []


def resume_and_check(store: Store, run: Any, salvaged: int) -> None:
    """A second worker, without the trouble, computes the rest and no more."""
    submit_again(store, run, 2)
    path = Path(store.root, layout.RUN)
    path.write_text(path.read_text().replace('"at":3', '"at":-1'))
    done = run_worker(store.root, number=2)
    assert done.returncode == exit_codes.DONE, done.stderr
    receipt = receipt_of(store)
    assert (receipt.records, receipt.salvaged) == (6, salvaged)
    assert items_done(store) == list(range(6))


@pytest.mark.parametrize("name", SIGNALS)
def test_a_long_item_is_abandoned_and_the_finished_ones_are_kept(store: Store, name: str) -> None:
    run = write_run(store, {"at": 3, "do": "loop"}, checkpoint_every=1000.0)
    with subprocess.Popen(
        worker_command(store.root), stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at it\n"
        process.send_signal(signal.Signals[name])
        _, log = process.communicate(timeout=60)
    assert process.returncode == exit_codes.INTERRUPTED == 75
    assert b"Traceback" not in log
    assert f"interrupted by {name} after 3 items".encode() in log
    check_interrupted(store, name, [0, 1, 2])
    resume_and_check(store, run, 3)


@pytest.mark.parametrize("name", [*SIGNALS, "SIGINT"])
def test_a_signal_from_within_an_item(store: Store, name: str) -> None:
    write_run(store, {"at": 3, "do": "kill", "signal": name})
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    check_interrupted(store, name, [0, 1, 2])


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_between_two_items_keeps_the_item_that_was_finished(
    store: Store, name: str
) -> None:
    run = write_run(store, {"at": 3, "do": "kill later", "signal": name}, results="pickle")
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    check_interrupted(store, name, [0, 1, 2, 3])
    resume_and_check(store, run, 4)


def test_a_signal_after_the_last_item_lets_the_shard_become_done(store: Store) -> None:
    write_run(
        store, {"at": 5, "do": "kill later", "signal": "SIGTERM"}, results="pickle", n_shards=2,
        n_workers=1, shards_per_job=2,
    )  # fmt: skip
    path = Path(store.root, layout.submission(1))
    ranks = path.read_text().replace('"start":0,"stop":2', '"start":1,"stop":2')
    path.write_text(ranks)
    assert run_worker(store.root).returncode == exit_codes.DONE
    assert receipt_of(store, 1).records == 3


def test_shards_of_the_task_that_were_not_begun_are_recorded_too(store: Store) -> None:
    write_run(store, {"at": 1, "do": "kill", "signal": "SIGTERM"}, n_shards=3, shards_per_job=3)
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    records = records_of(store, "interrupted")
    assert [record.rank for record in records] == [0, 1, 2]
    assert records[0].items_done == 1
    assert [r.cause for r in records[1:]] == ["signal SIGTERM, before it started"] * 2


def test_a_signal_between_two_shards_leaves_a_record_for_each_that_is_left(store: Store) -> None:
    write_run(
        store, {"at": 1, "do": "kill later", "signal": "SIGTERM"},
        n_shards=3, shards_per_job=3, results="pickle",
    )  # fmt: skip
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    assert receipt_of(store, 0).records == 2  # the signal came after its last item
    records = records_of(store, "interrupted")
    assert [record.rank for record in records] == [1, 2]
    assert all(record.cause == "signal SIGTERM, before it started" for record in records)


def test_a_second_signal_does_not_disturb_what_the_first_began(
    store: Store, tmp_path: Path
) -> None:
    config = {"at": 3, "do": "kill twice", "signal": "SIGUSR1", "folder": str(tmp_path)}
    write_run(store, config)
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    check_interrupted(store, "SIGUSR1", [0, 1, 2])
    assert (tmp_path / "cleaned").exists()


def test_what_code_returns_that_swallowed_a_signal_is_no_result(store: Store) -> None:
    """It may be what a bare `except:` makes of anything that goes wrong."""
    run = write_run(store, {"at": 3, "do": "swallow", "signal": "SIGTERM"})
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    check_interrupted(store, "SIGTERM", [0, 1, 2])
    resume_and_check(store, run, 3)


@pytest.mark.parametrize("on_error", ["stop", "record"])
def test_what_fails_because_of_a_signal_is_no_failure_of_the_item(
    store: Store, on_error: str
) -> None:
    write_run(store, {"at": 3, "do": "kill and raise", "signal": "SIGTERM"}, on_error=on_error)
    assert run_worker(store.root).returncode == exit_codes.INTERRUPTED
    check_interrupted(store, "SIGTERM", [0, 1, 2])


WHILE_WRITING = """
import os, signal, sys
from espnet3.specs import layout
from espnet3.specs.models import RunSpec, decode
from espnet3.storage.local import LocalStore
from espnet3.worker import result_writer
from espnet3.worker.attempt import SchedulerTask
from espnet3.run_dir.directory import RunDirectory
from espnet3.worker.task import run_task

result_writer.WRITE_EVERY = 0.0  # every item is written by itself

class Store(LocalStore):
    def append(self, path):
        file = super().append(path)
        write, count = file.write, [0]
        def killed(data):
            count[0] += 1
            half = len(data) // 2
            write(data[:half])
            if count[0] == 3:
                os.kill(os.getpid(), getattr(signal, NAME))
            write(data[half:])
        file.write = killed
        return file

NAME = sys.argv[2]  # before it is that of the submitter
store = Store(sys.argv[1])
run = decode(RunSpec, store.read(layout.RUN), layout.RUN)
directory = RunDirectory(store)
sys.exit(run_task(directory, run, [0], 1, SchedulerTask(0, None), may_have_predecessors=False))
"""


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_while_a_line_is_written_does_not_tear_it(store: Store, name: str) -> None:
    run = write_run(store, {"at": -1})
    command = [sys.executable, "-c", WHILE_WRITING, store.root, name]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=60, check=False)
    assert done.returncode == exit_codes.INTERRUPTED, done.stderr
    check_interrupted(store, name, [0, 1, 2])
    resume_and_check(store, run, 3)


def test_a_worker_that_nohup_started_does_not_mind_the_end_of_its_terminal(store: Store) -> None:
    write_run(store, {"at": 3, "do": "kill and go on", "signal": "SIGHUP"})
    done = subprocess.run(
        ["nohup", *worker_command(store.root)],
        cwd="/", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == exit_codes.DONE, done.stderr
    assert receipt_of(store).records == 6


def test_a_killed_worker_leaves_what_it_handed_over(store: Store) -> None:
    run = write_run(store, {"at": 3, "do": "kill", "signal": "SIGKILL"})
    done = run_worker(store.root)
    assert done.returncode == -signal.SIGKILL
    assert records_of(store, "interrupted") == []
    kept = len(items_done(store))  # at most what came in the last moment is lost
    assert items_done(store) == list(range(kept))
    resume_and_check(store, run, kept)


# --- the handler itself -------------------------------------------------------------------------


def test_the_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    with Signals():
        assert all(signal.getsignal(n) not in before for n in HANDLED if n != signal.SIGINT)
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_an_unarmed_signal_waits_for_the_next_check_and_the_first_one_counts() -> None:
    with Signals() as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGUSR1)
        eventually(lambda: signals.received)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGUSR1"):
            signals.check()


def test_an_armed_signal_raises_once() -> None:
    with Signals() as signals:
        with pytest.raises(Interrupted, match="SIGUSR2"):
            signals.armed = True
            os.kill(os.getpid(), signal.SIGUSR2)
            eventually(lambda: False)
        assert not signals.armed
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(Interrupted, match="SIGUSR2"):
            signals.check()
    assert not issubclass(Interrupted, Exception)  # users' `except Exception` lets it pass
