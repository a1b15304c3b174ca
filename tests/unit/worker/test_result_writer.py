"""The writer of result lines: order, durability, and what it does when the storage fails."""

from __future__ import annotations

import hashlib
import itertools
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from espnet3.errors import StoreError
from espnet3.specs import layout
from espnet3.specs.models import ResultPart
from espnet3.storage.base import AppendFile, Store
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import open_store
from espnet3.worker import result_writer
from espnet3.worker.result_writer import BUFFER, ResultWriter
from tests.support.worker_runs import eventually

ATTEMPT = "0001-0123456789ab"
LINES = [b'{"item":%d,"result":%d}\n' % (i, i * i) for i in range(300)]
NEVER = 1e6  # seconds between checkpoints
_numbers = itertools.count()


class WatchedStore(LocalStore):
    """Notes what was made durable, and fails on demand."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.synced = threading.Event()
        self.fail: str | None = None

    def append(self, path: str) -> AppendFile:
        return _WatchedFile(self, super().append(path))


class _WatchedFile(AppendFile):
    def __init__(self, store: WatchedStore, file: AppendFile) -> None:
        self._store, self._file = store, file

    def write(self, data: bytes) -> None:
        if self._store.fail == "write":
            raise StoreError("results", "No space left on device")
        self._file.write(data)

    def sync(self) -> None:
        if self._store.fail == "sync":
            raise StoreError("results", "No space left on device")
        self._file.sync()
        self._store.synced.set()

    def close(self) -> None:
        self._file.close()


@pytest.fixture
def watched(tmp_path: Path) -> WatchedStore:
    store = WatchedStore(str(tmp_path / "run"))
    store.prepare(layout.FOLDERS)
    return store


@pytest.fixture
def memory() -> Store:
    return open_store(f"memory://unit/results-{next(_numbers)}")


def contents(store: Store) -> bytes:
    """All result files by the position of their first record."""
    files = list(map(layout.parse_result, store.names(layout.RESULTS)))
    found = sorted((f for f in files if f is not None), key=lambda f: f.first)
    return b"".join(store.read(layout.result(*f)) for f in found)


def check_parts(store: Store, parts: list[ResultPart], lines: list[bytes], first: int = 0) -> None:
    """The parts follow each other, and vouch for exactly these lines."""
    position = first
    for part in parts:
        data = store.read(f"{layout.RESULTS}/{part.file}")
        assert part.file == f"000003.{ATTEMPT}.{position}.jsonl"
        assert (part.first, part.bytes) == (position, len(data))
        assert data == b"".join(lines[position - first : position - first + part.records])
        assert part.checksum == "sha256:" + hashlib.sha256(data).hexdigest()
        position += part.records
    assert position == first + len(lines)


@pytest.mark.parametrize("kind", ["watched", "memory"])
@pytest.mark.parametrize("first", [0, 17])
def test_lines_are_kept_in_order(kind: str, first: int, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    with ResultWriter(store, 3, ATTEMPT, first, NEVER) as writer:
        for line in LINES:
            writer.add(line)
        assert writer.added == len(LINES)
        parts = writer.finish()
    assert len(parts) == 1
    check_parts(store, parts, LINES, first)
    assert writer.added == len(LINES)


@given(st.lists(st.integers(0, 40), max_size=8), st.booleans())
def test_checkpoints_make_parts_where_a_store_cannot_append(sizes: list[int], last: bool) -> None:
    store = open_store(f"memory://unit/parts-{next(_numbers)}")
    lines = LINES[: sum(sizes)]
    rest = iter(lines)
    with ResultWriter(store, 3, ATTEMPT, 0, NEVER) as writer:
        for size in sizes:
            for line in itertools.islice(rest, size):
                writer.add(line)
            writer.checkpoint()
            assert contents(store) == b"".join(lines[: writer.added])
        if last:
            lines = [*lines, b"{}\n"]
            writer.add(b"{}\n")
        parts = writer.finish()
    assert len(parts) == sum(size > 0 for size in sizes) + last
    check_parts(store, parts, lines)


@pytest.mark.parametrize("kind", ["watched", "memory"])
def test_no_lines_make_no_file(kind: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    with ResultWriter(store, 3, ATTEMPT, 5, NEVER) as writer:
        writer.checkpoint()
        assert writer.finish() == []
    assert store.names(layout.RESULTS) == []


@pytest.mark.parametrize("kind", ["watched", "memory"])
def test_a_thread_makes_results_durable_while_an_item_takes_long(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store: Store = request.getfixturevalue(kind)
    with ResultWriter(store, 3, ATTEMPT, 0, 0.01) as writer:
        for line in LINES[:3]:
            writer.add(line)
        # No further item comes.
        if isinstance(store, WatchedStore):
            assert store.synced.wait(30)
            eventually(lambda: contents(store) == b"".join(LINES[:3]))
        else:
            eventually(lambda: contents(store) == b"".join(LINES[:3]))
        for line in LINES[3:5]:
            writer.add(line)
        eventually(lambda: contents(store) == b"".join(LINES[:5]))
        parts = writer.finish()
    check_parts(store, parts, LINES[:5])


def test_the_thread_leaves_with_the_writer(watched: WatchedStore) -> None:
    before = threading.active_count()
    with ResultWriter(watched, 3, ATTEMPT, 0, NEVER) as writer:
        assert threading.active_count() == before + 1
        writer.add(LINES[0])
        writer.finish()
        assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError), ResultWriter(watched, 3, ATTEMPT, 1, NEVER):
        raise ZeroDivisionError
    assert threading.active_count() == before


def test_slow_items_reach_the_operating_system_one_by_one(
    watched: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_writer, "WRITE_EVERY", 0.0)  # every item is slow
    with ResultWriter(watched, 3, ATTEMPT, 0, NEVER) as writer:
        for n, line in enumerate(LINES[:20]):
            writer.add(line)
            assert contents(watched) == b"".join(LINES[: n + 1])
        assert not watched.synced.is_set()


def test_fast_items_reach_it_in_blocks(
    watched: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_writer, "WRITE_EVERY", NEVER * NEVER)  # no item is slow
    line = b'{"item":0,"result":"%s"}\n' % (b"x" * 1000)
    with ResultWriter(watched, 3, ATTEMPT, 0, NEVER) as writer:
        while contents(watched) == b"":
            writer.add(line)
        written = writer.added
        assert BUFFER < written * len(line) <= BUFFER + 2 * len(line)
        writer.add(line)
        assert contents(watched) == line * written


@pytest.mark.parametrize("kind", ["watched", "memory"])
def test_an_abandoned_writer_keeps_what_it_has(kind: str, request: pytest.FixtureRequest) -> None:
    store: Store = request.getfixturevalue(kind)
    with (
        pytest.raises(ZeroDivisionError),
        ResultWriter(store, 3, ATTEMPT, 0, NEVER) as writer,
    ):
        for line in LINES[:7]:
            writer.add(line)
        raise ZeroDivisionError
    assert contents(store) == b"".join(LINES[:7])
    if isinstance(store, WatchedStore):
        assert store.synced.is_set()


@pytest.mark.parametrize("where", ["write", "sync"])
def test_what_the_thread_met_is_raised_by_the_next_call(
    watched: WatchedStore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(result_writer, "WRITE_EVERY", NEVER * NEVER)  # the thread alone writes
    writer = ResultWriter(watched, 3, ATTEMPT, 0, 0.01)
    watched.fail = where
    writer.__enter__()
    writer.add(LINES[0])
    eventually(lambda: not writer._thread.is_alive())
    with pytest.raises(StoreError, match="No space left"):
        writer.add(LINES[1])
    with pytest.raises(StoreError, match="No space left"):
        writer.finish()


def test_a_full_disk_is_raised_at_once(watched: WatchedStore) -> None:
    with (
        pytest.raises(StoreError, match="No space left"),
        ResultWriter(watched, 3, ATTEMPT, 0, NEVER) as writer,
    ):
        watched.fail = "write"
        for line in LINES:
            writer.add(line)
        writer.finish()


def test_an_attempt_never_writes_into_a_file_that_is_there(watched: WatchedStore) -> None:
    watched.create(layout.result(3, ATTEMPT, 0), b"somebody else's\n")
    with (
        pytest.raises(StoreError, match="exists already"),
        ResultWriter(watched, 3, ATTEMPT, 0, NEVER) as writer,
    ):
        writer.add(LINES[0])
        writer.finish()
    assert contents(watched) == b"somebody else's\n"


def test_checkpoints_may_be_farther_apart_than_clocks_can_count(watched: WatchedStore) -> None:
    with ResultWriter(watched, 3, ATTEMPT, 0, 1e300) as writer:
        writer.add(LINES[0])
        parts = writer.finish()
    check_parts(watched, parts, LINES[:1])
