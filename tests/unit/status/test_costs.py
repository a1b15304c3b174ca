"""What a status and a resume cost: so many looks and questions, whatever the number of shards."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from espnet3.collect import collect, status
from espnet3.errors import IncompleteRun
from espnet3.run_dir.directory import RunDirectory
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.specs import layout
from espnet3.specs.models import AttemptRecord, Receipt, ResultPart, encode, now
from espnet3.status import run_list
from espnet3.status.item_progress import ItemProgress
from espnet3.status.observation import observe
from espnet3.status.run_list import list_runs
from espnet3.storage.base import MAX_DOCUMENT
from espnet3.storage.local import LocalStore
from espnet3.submit import cancel, resume, submit
from tests.support import stand_in_cluster
from tests.support.stand_in_cluster import StandInDialect
from tests.support.worker_runs import Setup, Work

MANY = 70  # shards; in arrays of ten


class CountingStore(LocalStore):
    """Counts its operations by their names and folders."""

    def __init__(self, root: Any) -> None:
        super().__init__(str(root))
        self.operations: Counter[tuple[str, str]] = Counter()

    def _count(self, operation: str, path: str) -> None:
        self.operations[operation, path.partition("/")[0]] += 1

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        self._count("read", path)
        return super().read(path, limit)

    def names(self, folder: str) -> list[str]:
        self._count("names", folder)
        return super().names(folder)

    def exists(self, path: str) -> bool:
        self._count("exists", path)
        return super().exists(path)

    def create(self, path: str, data: bytes, *, durable: bool = True) -> None:
        self._count("create", path)
        super().create(path, data, durable=durable)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked of the batch system."""
    stand_in_cluster.install(monkeypatch)
    questions: list[str] = []
    for name in ("query", "find"):
        original = getattr(BatchSystem, name)

        async def counted(*words: Any, name: str = name, original: Any = original) -> Any:
            questions.append(name)
            return await original(*words)

        monkeypatch.setattr(BatchSystem, name, counted)
    return questions


async def unfinished_run(folder: Path, n_shards: int) -> CountingStore:
    """A run of which all shards are done but the first, which has failed."""
    shape = {"n_shards": n_shards, "n_workers": n_shards, "max_array_size": 10}
    parallel = {"env": stand_in_cluster.NAME, "preflight": False, **shape}
    run_dir = folder / f"run-{n_shards}"
    await submit(Work(Setup({})), range(n_shards), run_dir=run_dir, parallel=parallel)
    store = CountingStore(run_dir)
    attempts = [layout.new_attempt(1) for _ in range(n_shards)]
    for rank, attempt in enumerate(attempts):
        for event in ("started", "failed") if rank == 0 else ("started",):
            record = AttemptRecord(
                event=event, rank=rank, attempt=attempt, task=rank, job_id=None, host="here",
                pid=1, time=now(),
            )  # fmt: skip
            store.create(layout.attempt_record(rank, attempt, event), encode(record))
    for rank in range(1, n_shards):
        store.create(layout.receipt(rank), b"{}")
    StandInDialect.cluster.tasks.clear()  # all have ended long ago
    store.operations.clear()
    return store


async def test_a_status_looks_as_often_at_many_shards_as_at_few(
    tmp_path: Path, asked: list[str]
) -> None:
    operations = []
    for n_shards in (2, MANY):
        store = await unfinished_run(tmp_path, n_shards)
        asked.clear()
        seen = await observe(RunDirectory(store), items=ItemProgress())
        assert seen.status.counts() == {"done": n_shards - 1, "failed": 1}
        assert asked == ["query"]
        operations.append(store.operations)
    assert operations[0] == operations[1]
    assert operations[0] == {
        ("read", layout.RUN): 1,
        ("names", layout.SUBMISSIONS): 1,
        ("read", layout.SUBMISSIONS): 2,
        ("names", layout.RECEIPTS): 2,  # before and after the question
        ("names", layout.WITHDRAWALS): 2,
        ("names", layout.FINISHERS): 1,
        ("names", layout.CLAIMS): 1,  # of workers that joined, if any
        ("names", layout.ATTEMPTS): 1,
        ("read", layout.ATTEMPTS): 1,
        ("names", layout.RESULTS): 1,
    }


async def test_the_results_of_shards_that_nobody_has_begun_are_not_even_listed(
    tmp_path: Path, asked: list[str]
) -> None:
    store = await unfinished_run(tmp_path, MANY)
    for name in store.names(layout.ATTEMPTS):
        if name.startswith("000000."):
            os.unlink(store.locate(f"{layout.ATTEMPTS}/{name}"))
    store.operations.clear()
    seen = (await observe(RunDirectory(store), items=ItemProgress())).status
    assert (seen.progress.done, store.operations["names", layout.RESULTS]) == (MANY - 1, 0)


async def test_the_status_of_a_run_that_is_done_asks_nobody(
    tmp_path: Path, asked: list[str]
) -> None:
    store = await unfinished_run(tmp_path, MANY)
    store.create(layout.receipt(0), b"{}")
    store.operations.clear()
    asked.clear()
    assert (await observe(RunDirectory(store))).status.done
    assert asked == []
    assert store.operations["names", layout.RECEIPTS] == 1
    assert store.operations["names", layout.ATTEMPTS] == 0


async def test_a_resume_looks_as_often_at_many_shards_as_at_few(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operations = []
    for n_shards in (2, MANY):
        store = await unfinished_run(tmp_path, n_shards)
        asked.clear()
        with monkeypatch.context() as patch:
            patch.setattr("espnet3.run_dir.directory.open_store", lambda run_dir, s=store: s)
            assert (await resume(store.root)).ranks == [0]
        assert asked == ["query"]
        operations.append(store.operations)
    assert operations[0] == operations[1]
    assert sum(operations[0].values()) < 22


async def test_a_list_looks_as_often_into_a_run_of_many_shards_as_of_few(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for n_shards in (2, MANY):
        await unfinished_run(tmp_path, n_shards)
    opened: dict[Any, CountingStore] = {}
    asked.clear()
    monkeypatch.setattr(
        run_list, "open_store", lambda root: opened.setdefault(root, CountingStore(root))
    )
    assert [run.state for run in await list_runs([tmp_path])] == ["unfinished", "unfinished"]
    of_runs = [store.operations for root, store in opened.items() if root != tmp_path]
    assert of_runs == 2 * [
        {
            ("names", ""): 1,
            ("read", layout.RUN): 1,
            ("names", layout.RECEIPTS): 1,
            ("names", layout.WITHDRAWALS): 1,
            ("names", layout.SUBMISSIONS): 1,
        }
    ]
    assert asked == []


@pytest.fixture
def hops(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called in a thread, by name."""
    original, called = asyncio.to_thread, list[str]()

    async def counted(function: Any, *words: Any, **named: Any) -> Any:
        called.append(getattr(function, "__name__", "?"))
        return await original(function, *words, **named)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    return called


async def test_a_stage_is_one_hop_into_a_thread(
    tmp_path: Path, asked: list[str], hops: list[str]
) -> None:
    """Each break tears a traceback, and a cancellation comes between: decision 0016."""
    store = await unfinished_run(tmp_path, 2)
    hops.clear()
    await status(store.root)
    assert hops == ["_look", "conclude"]
    hops.clear()
    assert (await resume(store.root)).ranks == [0]
    looks = ["look", "look"]  # before a job, and after all
    assert hops == ["_look", "conclude", "known_code", "_claim", *looks]
    hops.clear()
    await cancel(store.root)
    assert hops == ["_look", "conclude", "publish_first"]
    hops.clear()
    with pytest.raises(IncompleteRun):
        await collect(store.root)
    assert hops == ["look", "_look", "conclude"]


class ThreeShards:
    """A run of nine items that records errors."""

    def __init__(self, store: CountingStore) -> None:
        self.store = store
        self._fingerprint = RunDirectory(store).run().fingerprint

    @classmethod
    async def submitted(cls, folder: Path) -> ThreeShards:
        shape = {"n_shards": 3, "n_workers": 3, "on_error": "record"}
        parallel = {"env": stand_in_cluster.NAME, "preflight": False, **shape}
        await submit(Work(Setup({})), range(9), run_dir=folder / "run", parallel=parallel)
        return cls(CountingStore(folder / "run"))

    def done(self, rank: int, errors: int, submission: int = 1) -> None:
        """Create a shard's receipt."""
        attempt = layout.new_attempt(submission)
        part = ResultPart(
            file=f"{rank:06d}.{attempt}.0.jsonl", first=0, records=3, bytes=9,
            checksum=f"sha256:{'0' * 64}",
        )  # fmt: skip
        receipt = Receipt(
            rank=rank, attempt=attempt, fingerprint=self._fingerprint, records=3, errors=errors,
            salvaged=0, parts=[part], host="here", created=now(),
        )  # fmt: skip
        self.store.create(layout.receipt(rank), encode(receipt))


async def test_what_was_skipped_is_told_apart_without_reading_more(
    tmp_path: Path, asked: list[str]
) -> None:
    run = await ThreeShards.submitted(tmp_path)
    StandInDialect.cluster.tasks.clear()
    run.done(0, 2)
    await resume(run.store.root, skip=[4, 7, 8])
    run.done(1, 3, submission=2)  # two of its items failed
    run.done(2, 1, submission=2)  # one of those that were named had a result already
    run.store.operations.clear()
    seen = (await observe(RunDirectory(run.store), items=ItemProgress())).status
    assert (seen.failed, seen.skipped) == ({0: 2, 1: 2}, {1: 1, 2: 1})
    assert (seen.failed_items, seen.skipped_items, seen.sound) == (4, 2, False)
    assert seen.items_in_words() == ["4 of 9 items failed", "2 skipped"]
    assert run.store.operations["read", layout.RECEIPTS] == 3
    assert sum(n for (name, _), n in run.store.operations.items() if name == "read") == 8
    assert run.store.operations["names", layout.RESULTS] == 0


async def test_a_status_reads_each_receipt_once_where_errors_may_stand_in_it(
    tmp_path: Path, asked: list[str]
) -> None:
    """And none where the run records no errors, as above."""
    run = await ThreeShards.submitted(tmp_path)
    store, done = run.store, run.done
    done(0, 2)
    store.create(layout.receipt(1), b"")  # not seen as a whole yet
    counted = ItemProgress()
    store.operations.clear()
    seen = (await observe(RunDirectory(store), items=counted)).status
    assert (seen.failed, seen.failed_items, seen.n_items) == ({0: 2, 1: None}, 2, 9)
    assert store.operations["read", layout.RECEIPTS] == 2
    os.unlink(store.locate(layout.receipt(1)))
    done(1, 0)
    done(2, 3)
    store.operations.clear()
    seen = (await observe(RunDirectory(store), items=counted)).status
    assert (seen.done, seen.sound, seen.failed) == (True, False, {0: 2, 2: 3})
    assert store.operations["read", layout.RECEIPTS] == 2
    store.operations.clear()
    assert (await observe(RunDirectory(store), items=counted)).status == seen
    assert store.operations["read", layout.RECEIPTS] == 0
    assert (await observe(RunDirectory(store))).status.failed == {}  # who does not ask does not pay
    assert store.operations["read", layout.RECEIPTS] == 0
