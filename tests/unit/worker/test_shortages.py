"""A worker that is short of something, or whose descriptors are taken, leaves a word of it."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import WriterFailed
from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.storage.retry import RetryPolicy
from espnet3.worker import exit_codes, result_writer
from espnet3.worker.attempt import describe, let_go
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.written import call_hook
from tests.support.worker_runs import (
    receipt_of,
    records_of,
    result_lines,
    run_worker,
    submit_again,
    worker_command,
    write_run,
)
from tests.unit.worker.test_task import results_of, run_here

GONE = "is not open any more: its descriptor was closed, by forward say, or is another file's"


def test_a_forward_that_leaves_no_descriptor_free(store: Store) -> None:
    write_run(store, {"at": 1, "do": "leave no descriptor"}, n_shards=3, shards_per_job=3)
    done = run_worker(store.root)
    assert done.returncode == exit_codes.FAILED
    assert [record.rank for record in records_of(store, "failed")] == [0, 1, 2]
    assert "ValueError: no more" in records_of(store, "failed")[0].cause
    assert "Too many open files" in records_of(store, "failed")[1].cause
    assert "cannot be recorded" not in done.stderr


@pytest.mark.parametrize("n_files", [0, 3, 20])
@pytest.mark.parametrize("at", [1, 5])
def test_no_result_goes_to_a_file_that_took_the_descriptor(
    store: Store, tmp_path: Path, at: int, n_files: int
) -> None:
    """It fails the shard at once, also behind its last item, and the next one goes on."""
    config = {"at": at, "do": "take descriptors", "folder": str(tmp_path), "n_files": n_files}
    run = write_run(store, config, range(9), n_shards=3, shards_per_job=3, checkpoint_every=1000.0)
    assert run_worker(store.root).returncode == exit_codes.FAILED
    assert {(tmp_path / f"mine-{n}").read_text() for n in range(n_files)} <= {"mine"}
    [record] = records_of(store, "failed")
    rank = at // 3
    assert record.rank == rank
    assert record.cause.endswith(GONE)
    assert not store.exists(layout.receipt(rank))
    assert all(store.exists(layout.receipt(other)) for other in {0, 1, 2} - {rank})
    submit_again(store, run, 2)
    path = Path(store.root, layout.RUN)
    path.write_text(path.read_text().replace(f'"at":{at}', '"at":-1'))
    assert run_worker(store.root, number=2).returncode == exit_codes.DONE
    assert receipt_of(store, rank).records == 3


@pytest.mark.parametrize("change", ["taken", "longer", "shorter", "removed"])
@pytest.mark.parametrize("then", ["write", "sync", "close"])
def test_a_growing_file_is_vouched_for_by_its_path(tmp_path: Path, change: str, then: str) -> None:
    store = LocalStore(str(tmp_path))
    file: Any = store.append("file")
    file.write(b"one\n")
    file.sync()
    path = tmp_path / "file"
    if change == "taken":
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
        os.dup2(other, file._descriptor)
        os.close(other)
    elif change == "removed":
        path.unlink()
    else:
        path.write_bytes(b"one\ntwo\n" if change == "longer" else b"one")
    detected = {"taken": {"write", "sync", "close"}, "removed": {"close"}}
    if then in detected.get(change, {"sync", "close"}):
        with pytest.raises(Exception, match=r"not open any more|were written|No such file"):
            file.close() if then == "close" else file.sync() if then == "sync" else file.write(b"x")
    if change == "taken":
        assert (tmp_path / "other").read_bytes() == b""
        os.fstat(file._descriptor)  # nor was it closed
        os.close(file._descriptor)


def test_a_umask_that_takes_everything_leaves_files_for_their_owner(store: Store) -> None:
    write_run(store, {"at": 0, "do": "set umask"}, n_shards=2, shards_per_job=2)
    assert run_worker(store.root).returncode == exit_codes.DONE
    names = [layout.receipt(0), layout.receipt(1)]
    names += [f"{layout.RESULTS}/{name}" for name in store.names(layout.RESULTS)]
    names += [f"{layout.ATTEMPTS}/{name}" for name in store.names(layout.ATTEMPTS)]
    modes = {Path(store.root, name).stat().st_mode & 0o777 for name in names}
    assert 0o600 in modes
    assert modes <= {0o600, 0o644, 0o640, 0o664}  # the first attempt's start came before it


def test_what_the_worker_itself_has_no_memory_for_fails_the_shard_by_name(store: Store) -> None:
    write_run(store, {"at": 3, "do": "no memory"}, n_shards=3, shards_per_job=3)
    assert run_worker(store.root).returncode == exit_codes.FAILED
    [record] = records_of(store, "failed")
    assert record.rank == 2
    assert record.cause == "the worker failed: MemoryError: cannot allocate 7 GiB"
    assert record.error is not None
    assert record.error.type == "MemoryError"


@pytest.mark.parametrize("keeps", [False, True])
def test_a_forward_that_takes_all_memory(store: Store, keeps: bool) -> None:
    """Also where it is its own environment that holds it."""
    write_run(store, {"at": 1, "do": "fill memory", "keeps": keeps}, n_shards=1)
    done = run_worker(store.root)
    assert done.returncode == exit_codes.FAILED
    assert "cannot be recorded" not in done.stderr
    [record] = records_of(store, "failed")
    # With nothing left at all, Python sometimes loses it: see the next test.
    assert record.cause.startswith("forward failed at item 1: MemoryError")
    assert record.error is not None
    assert record.error.type == "MemoryError"
    assert record.items_done == 1
    assert record.memory_needed is not None
    assert record.memory_needed > 64 << 20


def test_a_memory_error_that_python_has_lost_is_one() -> None:
    lost = SystemError("<function forward at 0x7f> returned NULL without setting an exception")
    assert describe(let_go(lost)) == "MemoryError: which Python has lost"
    assert let_go(lost).__cause__ is lost

    def reduce_state() -> None:
        raise lost

    with pytest.raises(WriterFailed, match=r"reduce_state.*MemoryError"):
        call_hook("write_record", None, reduce_state)
    for other in (
        SystemError("<built-in function load> returned NULL without setting an exception"),
        ValueError("<function forward at 0x7f> returned NULL without setting an exception"),
    ):
        assert let_go(other) is other


def test_exceptions_that_cannot_be_compared_are_told_apart() -> None:
    class Odd(Exception):
        def __eq__(self, other: object) -> bool:
            raise ValueError("the truth value is ambiguous")

        def __bool__(self) -> bool:
            return False

        __hash__ = Exception.__hash__

    error, behind = ValueError("it"), Odd()
    error.__cause__, behind.__context__ = behind, Odd()
    assert let_go(error) is error


@pytest.mark.parametrize("times", [3, 99])
def test_a_thread_that_cannot_be_started(
    store: Store, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    tries, start = itertools.count(1), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if next(tries) <= times:
            raise RuntimeError("can't start new thread")
        start(thread)

    run = write_run(store, {})
    monkeypatch.setattr(
        result_writer, "RetryPolicy", lambda: RetryPolicy(sleep=lambda seconds: None)
    )
    monkeypatch.setattr(threading.Thread, "start", refuse)
    code = run_here(store, run)
    if times == 3:
        assert code == exit_codes.DONE
        assert results_of(store) == [0, 2, 4, 6, 8, 10]
    else:
        assert code == exit_codes.FAILED
        [record] = records_of(store, "failed")
        assert record.cause.startswith("no thread can be started for the checkpoints (can't start")
        assert result_lines(store) == []


@pytest.mark.parametrize("raised", ["MemoryError()", "ImportError('failed to map segment')"])
def test_a_worker_that_cannot_be_loaded_says_so_on_one_line(
    store: Store, tmp_path: Path, raised: str
) -> None:
    write_run(store, {})
    (tmp_path / "orjson.py").write_text(f"raise {raised}\n")
    done = run_worker(store.root, {"PYTHONPATH": str(tmp_path)})
    assert done.returncode == exit_codes.FAILED
    assert done.stderr.startswith("espnet3.worker: cannot be loaded here: ")
    assert done.stderr.count("\n") == 1
    assert worker_command(store.root)


def test_spare_descriptors_that_somebody_else_took_are_left_alone() -> None:
    spare = Spare()
    numbers = [number for number, _ in spare._held]
    for number in numbers:
        os.close(number)
    others = [os.open(os.devnull, os.O_RDONLY) for _ in numbers]
    with spare.room():
        for other in others:
            os.fstat(other)
            os.close(other)
    spare.give_back()
