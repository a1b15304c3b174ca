"""What a local store does when the system calls below it fail: again, or an error, never both."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from espnet3.errors import FileTaken, RunDirectoryError, StoreError
from espnet3.specs.layout import FOLDERS
from espnet3.storage import syncfs
from espnet3.storage.local import LocalStore
from espnet3.storage.retry import RetryPolicy
from tests.support.faulty_store import LASTING, PASSING, Faults, Rule, install, uninstall

NAME, TEXT = "receipts/000000.json", b'{"rank": 0}'


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def store(tmp_path: Path, pauses: list[float]) -> Iterator[LocalStore]:
    store = LocalStore(str(tmp_path))
    store.prepare(FOLDERS)
    store.create("shards/000000.json", TEXT)
    store.retry = RetryPolicy(tries=4, sleep=pauses.append)
    yield store
    uninstall()


def names(store: LocalStore) -> set[str]:
    """All files of the run directory, hidden ones too."""
    root = Path(store.root)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def _each(store: LocalStore) -> None:
    """`create_many` where each file is synced by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syncfs, "can_sync_whole", lambda folder: False)
        store.create_many("receipts", [("000000.json", TEXT)])


def _append(store: LocalStore) -> None:
    file = store.append("results/r.jsonl")
    file.write(b"line\n")
    file.sync()
    file.close()


ACTIONS: dict[str, Callable[[LocalStore], object]] = {
    "create": lambda store: store.create(NAME, TEXT),
    "create_many": lambda store: store.create_many("receipts", [("000000.json", TEXT)]),
    "create_each": lambda store: _each(store),
    "create_more": lambda store: store.create_many("shards", [("000001.json", TEXT)]),
    "read": lambda store: store.read("shards/000000.json"),
    "open": lambda store: store.open("shards/000000.json").read(),
    "exists": lambda store: store.exists("shards/000000.json"),
    "names": lambda store: store.names("shards"),
    "append": _append,
    "make_durable": lambda store: store.make_durable("shards/000000.json"),
    "prepare": lambda store: store.prepare(["new"]),
}
# What each action asks of the system and may ask again.
CALLS = [
    *(("create", call) for call in ("create", "write", "fsync", "link", "unlink", "open")),
    *(("create_many", call) for call in ("mkdir", "create", "write", "rename", "open")),
    *(("create_each", call) for call in ("create", "write", "fsync", "rename", "open")),
    *(("create_more", call) for call in ("create", "listdir", "link", "unlink", "open")),
    *(("append", call) for call in ("create", "open")),
    *(("read", "open"), ("exists", "stat"), ("names", "scandir"), ("make_durable", "open")),
    ("prepare", "mkdir"),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize(("action", "call"), CALLS)
def test_what_passes_by_itself_is_tried_again(
    store: LocalStore, pauses: list[float], action: str, call: str, error: str, when: str
) -> None:
    before = names(store)
    expected = ACTIONS[action](LocalStore(store.root)) if action in ("read", "names") else None
    install(Faults([Rule(call, store.root, error, when, times=3)]))
    found = ACTIONS[action](store)
    uninstall()
    assert expected in (None, found)
    made = {
        **{action: {NAME} for action in ("create", "create_many", "create_each")},
        "create_more": {"shards/000001.json"},
        "append": {"results/r.jsonl"},
    }
    assert names(store) == before | made.get(action, set())
    if NAME in made.get(action, set()):
        assert store.read(NAME) == TEXT
    # Where it was done although it failed, the next look finds that out.
    once = call in ("unlink", "mkdir") or (action, call) == ("append", "create")
    found_out = call in ("link", "rename") and when == "after"
    n = 0 if found_out else 1 if when == "after" and once else 3
    assert len(pauses) == n
    assert all(0.05 <= pause <= 0.4 for pause in pauses)


@pytest.mark.parametrize(("action", "call"), [c for c in CALLS if c[1] != "unlink"])
def test_there_is_a_limit(store: LocalStore, pauses: list[float], action: str, call: str) -> None:
    before = names(store)
    install(Faults([Rule(call, store.root, "ESTALE", times=-1)]))
    with pytest.raises(Exception, match="Stale file handle") as caught:
        ACTIONS[action](store)
    uninstall()
    assert len(str(caught.value).splitlines()) == 1
    assert len(pauses) == 3
    assert _surely_new(names(store) - before, call) <= {"results/r.jsonl"}


@pytest.mark.parametrize("error", LASTING)
@pytest.mark.parametrize(("action", "call"), [c for c in CALLS if c[1] != "unlink"])
def test_the_rest_is_raised_at_once(
    store: LocalStore, pauses: list[float], action: str, call: str, error: str
) -> None:
    before = names(store)
    install(Faults([Rule(call, store.root, error)]))
    with pytest.raises(Exception, match=r"No space|quota|Input/output|Read-only") as caught:
        ACTIONS[action](store)
    uninstall()
    assert store.root in str(caught.value)
    assert "tried" not in str(caught.value)
    assert pauses == []
    assert _surely_new(names(store) - before, call) <= {"results/r.jsonl"}


def _surely_new(new: set[str], call: str) -> set[str]:
    """Without those that may be there or not."""
    if call == "open":  # the folder is synced after the file has its name
        return new - {NAME, "shards/000001.json"}
    # An unfinished folder is only removed by one who sees what is in it, and who knows that it has
    # no other name.
    if call in ("listdir", "rename"):
        return {name for name in new if not name.startswith(".")}
    return new


@pytest.mark.parametrize("error", [*PASSING, *LASTING])
def test_a_whole_file_system_is_never_synced_again(
    store: LocalStore, pauses: list[float], monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    monkeypatch.setattr(syncfs, "can_sync_whole", lambda folder: True)
    before = names(store)
    install(Faults([Rule("syncfs", error=error, when="after")]))
    with pytest.raises(StoreError):
        store.create_many("receipts", [("000000.json", TEXT)])
    uninstall()
    assert (pauses, names(store)) == ([], before)


@pytest.mark.parametrize("error", [*PASSING, *LASTING])
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("write", "before"),
        ("write", "half"),
        ("write", "after"),
        ("fsync", "before"),
        ("fsync", "after"),
    ],
)
def test_a_growing_file_that_failed_once_takes_nothing_more(
    store: LocalStore, pauses: list[float], call: str, error: str, when: str
) -> None:
    file = store.append("results/r.jsonl")
    file.write(b"one\n")
    install(Faults([Rule(call, "results", error, when)]))
    with pytest.raises(StoreError):
        file.write(b"two\n")
        file.sync()
    there = store.read("results/r.jsonl")
    assert b"one\ntwo\n".startswith(there)
    # The system would take all of this now; but what it lost stays lost.
    for action in (file.sync, lambda: file.write(b"three\n"), file.sync):
        with pytest.raises(StoreError, match=r"results/r\.jsonl"):
            action()
    file.close()
    assert store.read("results/r.jsonl") == there
    assert pauses == []


def test_a_reader_goes_on_where_its_handle_became_stale(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [b"%d\n" % i for i in range(200_000)]
    store.create("results/r.jsonl", b"".join(lines))
    preadv, count = os.preadv, 0

    def stale(*args: object) -> int:
        nonlocal count
        count += 1
        if count % 2:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return preadv(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "preadv", stale)
    with store.open("results/r.jsonl") as file:
        assert list(file) == lines
        file.seek(2)
        assert file.readline() == lines[1]

    def broken(*args: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", broken)
    with (
        store.open("results/r.jsonl") as file,
        pytest.raises(StoreError, match=r"r\.jsonl: Input/output error"),
    ):
        file.read()


def test_of_two_that_lost_their_answers_one_wins(store: LocalStore) -> None:
    install(Faults([Rule("link", error="ETIMEDOUT", when="after", times=-1)]))
    store.create(NAME, TEXT)
    with pytest.raises(FileTaken):
        store.create(NAME, TEXT)
    uninstall()
    assert store.read(NAME) == TEXT


def test_a_file_system_without_links_is_named(store: LocalStore) -> None:
    for error in ("EPERM", "ENOTSUP", "ENOSYS", "EXDEV", "EMLINK"):
        install(Faults([Rule("link", error=error)]))
        words = r"no hard link can be made here .*choose another run_dir"
        with pytest.raises(StoreError, match=words):
            store.create(NAME, TEXT)


def test_what_lacks_links_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path / "far/below/run"))
    install(Faults([Rule("link", error="EXDEV")]))
    with pytest.raises(RunDirectoryError, match=r"run: no hard link can be made here .*; choose"):
        store.prepare(FOLDERS)
    uninstall()
    assert not [*tmp_path.iterdir()]


def test_other_links_to_a_file_are_not_taken_for_ones_own(store: LocalStore) -> None:
    """A backup links each temporary file as soon as it is there; the name is taken all the same."""
    store.create(NAME, TEXT)
    backup = Path(store.root, "logs", "backup")
    real = os.link

    def after_the_backup(source: str, target: str) -> None:
        backup.unlink(missing_ok=True)
        real(source, backup)
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", after_the_backup)
        with pytest.raises(FileTaken):
            store.create(NAME, b"other")
        store.create("receipts/000001.json", TEXT)
    assert store.read(NAME) == TEXT


def test_a_tool_that_links_all_files_lets_nobody_win_twice(store: LocalStore) -> None:
    done = threading.Event()

    def link_all() -> None:
        folder, backup = Path(store.root, "receipts"), Path(store.root, "logs")
        while not done.is_set():
            for name in os.listdir(folder):
                with contextlib.suppress(OSError):
                    os.link(folder / name, backup / name)

    def create(word: bytes) -> set[int]:
        won = set()
        for i in range(200):
            with contextlib.suppress(FileTaken):
                LocalStore(store.root).create(f"receipts/{i:06d}.json", word, durable=False)
                won.add(i)
        return won

    with ThreadPoolExecutor(4) as pool:
        linking = [pool.submit(link_all) for _ in range(2)]
        try:
            first, second = pool.map(create, (b"first", b"second"))
        finally:
            done.set()
        for future in linking:
            future.result()
    assert first | second == set(range(200))
    assert not first & second


def test_the_pauses_of_many_do_not_agree() -> None:
    seen = []
    for _ in range(50):
        waited: list[float] = []
        policy = RetryPolicy(sleep=waited.append)
        with pytest.raises(TimeoutError):
            policy.call(_time_out)
        assert len(waited) == policy.tries - 1
        assert sum(waited) < 25
        seen.append(waited[0])
    assert len(set(seen)) > 40


@pytest.mark.parametrize(
    ("said", "seconds"), [(None, 60.0), ("", 60.0), ("soon", 60.0), ("-1", 60.0), ("7.5", 7.5)]
)
def test_patience_is_a_minute_unless_the_environment_says_otherwise(
    said: str | None, seconds: float
) -> None:
    environ = {name: v for name, v in os.environ.items() if name != "ESPNET3_PATIENCE"}
    if said is not None:
        environ["ESPNET3_PATIENCE"] = said
    code = (
        "from espnet3.storage.base import Store; from espnet3.run_dir import verification\n"
        "print(Store.patience, verification.PATIENCE)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(seconds)] * 2
    assert ("ESPNET3_PATIENCE" in done.stderr) == (said in ("soon", "-1"))


def _time_out() -> None:
    raise OSError(errno.ETIMEDOUT, "Connection timed out")
