"""What a collect costs: reads, open files and memory, whatever the number of shards."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from espnet3.collect import collect, output, result_parts
from espnet3.errors import StoreError
from espnet3.run_dir.result_lines import encode_json
from espnet3.run_dir.verification import IN_MEMORY
from espnet3.specs import layout
from espnet3.specs.items import shard_bounds
from espnet3.storage.base import MAX_DOCUMENT
from espnet3.storage.local import LocalStore
from tests.support import faulty_store
from tests.support.faulty_store import Faults, Rule
from tests.support.finished_runs import finish_shard
from tests.support.worker_runs import write_run

SHARDS, PARTS = 60, 2


class CountingStore(LocalStore):
    """Counts what is read and opened of each folder, and the parts that are read at once.

    Reading the beginning of a part takes `delay` seconds.
    """

    def __init__(self, root: str, delay: float = 0.0) -> None:
        super().__init__(root)
        self.operations: Counter[tuple[str, str]] = Counter()
        self.most_at_once = 0
        self._at_once, self._delay = 0, delay
        self._lock = threading.Lock()

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        with self._lock:
            self.operations["read", path.partition("/")[0]] += 1
        return super().read(path, limit)

    def open(self, path: str) -> BinaryIO:
        with self._lock:
            self.operations["open", path.partition("/")[0]] += 1
        return super().open(path)

    def read_beginning(self, path: str, size: int) -> bytes:
        with self._lock:
            self.operations["read", path.partition("/")[0]] += 1
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        time.sleep(self._delay)
        try:
            return super().read_beginning(path, size)
        finally:
            with self._lock:
                self._at_once -= 1


def finish(store: LocalStore, n_items: int, result: Any = None) -> bytes:
    """Results and receipts of all shards, each in parts; returns what a merge has to hold."""
    run = write_run(store, {}, range(n_items), n_shards=SHARDS)
    merged = b""
    for rank in range(SHARDS):
        first, last = shard_bounds(rank, SHARDS, n_items)
        parts = []
        for i in range(PARTS):
            start, stop = (first + n for n in shard_bounds(i, PARTS, last - first))
            lines = b"".join(
                encode_json(item, item if result is None else result) for item in range(start, stop)
            )
            parts.append(lines)
            merged += lines
        finish_shard(store.root, run, rank, parts)
    return merged


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    store = CountingStore(str(tmp_path / "run"))
    monkeypatch.setattr("espnet3.run_dir.directory.open_store", lambda url: store)
    return store


@pytest.mark.parametrize("to_file", [True, False])
async def test_each_receipt_and_each_part_is_read_once(
    store: CountingStore, tmp_path: Path, to_file: bool
) -> None:
    merged = finish(store, 4 * SHARDS)
    if to_file:
        await collect(store.root, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == merged
    else:
        assert await collect(store.root) == list(range(4 * SHARDS))
    assert store.operations == {
        ("read", layout.RUN): 1,
        ("read", layout.RECEIPTS): SHARDS,
        ("read", layout.RESULTS): SHARDS * PARTS,
    }
    assert store.most_at_once <= result_parts.MANY


async def test_more_is_read_at_once_where_the_storage_takes_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CountingStore(str(tmp_path / "run"), delay=0.02)
    monkeypatch.setattr("espnet3.run_dir.directory.open_store", lambda url: store)
    merged = finish(store, 4 * SHARDS)
    await collect(store.root, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == merged
    assert result_parts.FEW < store.most_at_once <= result_parts.MANY


async def test_a_merge_holds_a_few_parts_in_memory(store: CountingStore, tmp_path: Path) -> None:
    merged = finish(store, 2 * SHARDS, "x" * 500_000)
    size = len(merged)
    part = size // (SHARDS * PARTS)
    del merged
    tracemalloc.start()
    try:
        await collect(store.root, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < IN_MEMORY + (result_parts.MANY + 2) * part + 4_000_000 < size / 3


async def test_an_early_sync_that_fails_is_not_forgotten(
    store: CountingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of a lost write once, so the last sync says nothing of it."""
    finish(store, 2 * SHARDS)
    monkeypatch.setattr(output, "SYNC_EVERY", 0)
    (tmp_path / "out").mkdir()
    faulty_store.install(Faults([Rule("fsync", "/out/", "EIO")]))
    try:
        with pytest.raises(StoreError, match="Input/output error"):
            await collect(store.root, tmp_path / "out" / "merged")
    finally:
        faulty_store.uninstall()
    assert list((tmp_path / "out").iterdir()) == []
