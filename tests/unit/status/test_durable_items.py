"""Which items of unfinished shards have a result, as their files tell it."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import this_process
from espnet3.run_dir.result_lines import encode_error, encode_json
from espnet3.run_dir.skipped import Skips
from espnet3.specs import layout
from espnet3.specs.models import ErrorRecord, RunSpec, Withdrawal, encode, now
from espnet3.status.durable_items import DurableItems, ShardItems, Start
from espnet3.storage.base import Store
from espnet3.storage.local import LocalStore
from espnet3.storage.object import ObjectStore
from tests.support.worker_runs import write_run

DEAD, LIVE, LATER = "0001-000000000001", "0001-000000000002", "0002-000000000003"
_numbers = itertools.count()


def line(position: int) -> bytes:
    return encode_json(position, "„x“")


def error(position: int) -> bytes:
    return encode_error(position, ErrorRecord(type="E", message="m", traceback="t"))


class ReadingStore(LocalStore):
    """Counts the bytes that are read of results."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.read_bytes = 0

    def open(self, path: str) -> BinaryIO:
        stream = super().open(path)
        read = stream.read

        def counted(size: int = -1) -> bytes:
            data = read(size)
            self.read_bytes += len(data)
            return data

        stream.read = counted  # type: ignore[method-assign]
        return stream


class Bench:
    """A run of two shards of ten items, and looks at it."""

    def __init__(self, store: Store) -> None:
        self.store, self.items = store, DurableItems()
        self.run: RunSpec = write_run(store, {}, range(20), n_shards=2)

    def add(self, attempt: str, first: int, data: bytes) -> str:
        path = layout.result(0, attempt, first)
        self.store.create(path, data)
        return path

    def look(
        self, live: str | None = None, *, generation: int = 1, errors_from: int = 0, **keys: Any
    ) -> ShardItems | None:
        starts = {}
        if live is not None:
            record = layout.attempt_record(0, live, "started")
            if not self.store.exists(record):
                self.store.create(record, b"{}")
            starts = {0: Start(live, record, 0)}
        found = self.items.look(
            RunDirectory(self.store), self.run, {0: generation}, starts,
            errors_from=lambda rank: errors_from, **{"errors": True, "skips": Skips({}), **keys},
        )  # fmt: skip
        return found.get(0)


@pytest.fixture
def local(tmp_path: Path) -> Bench:
    return Bench(ReadingStore(str(tmp_path / "run")))


@pytest.fixture
def objects() -> Bench:
    return Bench(ObjectStore(f"memory://unit/durable-{next(_numbers)}"))


def test_whole_lines_are_counted_and_read_once(local: Bench) -> None:
    assert isinstance(local.store, ReadingStore)
    assert local.look() is None
    file = Path(local.store.locate(local.add(DEAD, 0, line(0) + line(1) + line(2)[:5])))
    assert local.look() == ShardItems(2)
    with file.open("ab") as more:
        more.write(line(2)[5:] + line(3))
    local.store.read_bytes = 0
    assert local.look() == ShardItems(4)
    assert local.store.read_bytes == len(line(2) + line(3))
    local.store.read_bytes = 0
    assert local.look() == ShardItems(4)
    assert local.store.read_bytes == 0


@pytest.mark.parametrize("errors", [False, True])
def test_what_is_no_line_ends_a_file(local: Bench, errors: bool) -> None:
    local.add(DEAD, 0, line(0) + b"\0" * 4000 + line(1))
    assert local.look(errors=errors) == ShardItems(1)
    path = local.store.locate(local.add(LATER, 8, line(8) * 9))  # more than the shard has
    assert local.look(errors=errors) == ShardItems(3)
    os.truncate(path, 1 << 40)
    assert DurableItems().look(
        RunDirectory(local.store),
        local.run,
        {0: 1},
        {},
        errors=errors,
        errors_from=lambda rank: 0,
        skips=Skips({}),
    ) == {0: ShardItems(3)}


def test_files_that_overlap_are_taken_together(local: Bench) -> None:
    local.add(DEAD, 0, b"".join(map(line, range(6))))
    local.add(LIVE, 4, b"".join(map(line, range(4, 7))))
    local.add(LATER, 8, line(8))
    assert local.look() == ShardItems(8)


def test_errors_count_unless_a_result_is_there_too(local: Bench) -> None:
    local.add(DEAD, 0, error(0) + error(1) + line(2) + error(3) + error(4))
    assert local.look() == ShardItems(3, 2)  # what ended the attempt may have ended the last ones
    assert local.look(DEAD) == (found := local.look(DEAD))
    assert found is not None
    assert found[:3] == (5, 4, 5)
    local.add(LATER, 1, line(1))
    assert local.look() == ShardItems(3, 1)
    assert local.look(errors_from=2) == ShardItems(2)  # a resume computes them again


def test_errors_of_items_that_were_skipped_are_told_apart(local: Bench) -> None:
    local.add(DEAD, 0, error(0) + line(1) + error(2) + line(3))
    local.add(LATER, 4, error(4) + line(5))
    skips = Skips({2: {0: frozenset({2, 4, 5}), 1: frozenset({0})}})
    # The 2 failed before it was to be skipped, and the 5 had a result.
    assert local.look(skips=skips) == ShardItems(6, 3, skipped=1)


def test_a_withdrawal_says_which_files_and_errors_count_no_more(local: Bench) -> None:
    damaged = local.add(DEAD, 0, line(0)).rpartition("/")[2]
    local.add(LIVE, 1, error(1) + line(2))
    assert local.look() == ShardItems(3, 1)
    local.store.prepare([layout.WITHDRAWALS])
    record = Withdrawal(
        rank=0, generation=1, created=now(), by=this_process(), reason="failed-items", cause="",
        files=[damaged], from_submission=2,
    )  # fmt: skip
    local.store.create(layout.withdrawal(0, 1), encode(record))
    assert local.look(generation=2) == ShardItems(1)


def test_where_an_attempt_is_and_since_when(local: Bench) -> None:
    local.add(DEAD, 0, line(0))
    began = local.look(LIVE)
    assert began is not None
    assert (began.done, began.position, began.per_second) == (1, 1, None)
    record = local.store.locate(layout.attempt_record(0, LIVE, "started"))
    assert began.written == os.stat(record).st_mtime
    local.items = DurableItems()
    os.utime(local.store.locate(layout.result(0, DEAD, 0)), (900, 900))
    os.utime(record, (1000, 1000))
    path = local.store.locate(local.add(LIVE, 1, line(1) + line(2)))
    os.utime(path, (1004, 1004))
    assert local.look(LIVE) == ShardItems(3, 0, 3, 1004.0, 0.5)


def test_names_of_parts_tell_positions_and_the_last_one_is_read(objects: Bench) -> None:
    read: Counter[str] = Counter()
    opened = objects.store.open

    def counted(path: str) -> BinaryIO:
        read[path] += 1
        return opened(path)

    objects.store.open = counted  # type: ignore[method-assign]
    objects.add(LIVE, 0, b"")  # nobody has to look
    objects.add(LIVE, 3, b"")
    last = objects.add(LIVE, 5, line(5) + line(6))
    found = objects.look(LIVE)
    assert found is not None
    assert (found.done, found.position) == (7, 7)
    newer = objects.add(LIVE, 7, line(7))
    found = objects.look(LIVE)
    assert found is not None
    assert (found.done, found.position) == (8, 8)
    assert read == {last: 1, newer: 1}
