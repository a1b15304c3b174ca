"""What every store promises. A backend subclasses `StoreContract` and says how to make a root."""

from __future__ import annotations

import contextlib
import io
import itertools
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from espnet3.errors import FileMissing, FileTaken, StoreError
from espnet3.specs.layout import FOLDERS
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store

ODD_NAMES = [
    "with space",
    'it\'s "quoted"',
    "日本語-é",
    "100%25",
    "$HOME",
    "back\\slash",
    "a;b&c|d",
    "[x]*?#",
    "-rf",
]


class StoreContract(ABC):
    """The suite.

    Attributes:
        n_raced: how many files of a `create_many` are raced for.
    """

    n_raced = 40

    @abstractmethod
    def make_root(self, name: str) -> str:
        """Path or URL of a run directory of that name, which does not exist yet."""

    @abstractmethod
    def raw_names(self, root: str, folder: str) -> set[str]:
        """Names of all files in a folder, hidden ones too, without the store's help."""

    @pytest.fixture
    def store(self) -> Store:
        store = open_store(self.make_root("run"))
        store.prepare(FOLDERS)
        return store

    # --- create, read, exists --------------------------------------------------------------------

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 2000], ids=["0", "1", "512k"])
    def test_a_created_file_is_read_back(self, store: Store, data: bytes) -> None:
        store.create("shards/000000.json", data)
        assert store.read("shards/000000.json") == data
        with store.open("shards/000000.json") as file:
            assert file.read() == data
        for size in (0, 1, len(data), len(data) + 1):
            assert store.read_beginning("shards/000000.json", size) == data[:size]

    def test_when_a_file_was_written_last(self, store: Store) -> None:
        store.create("run.json", b"{}")
        modified = store.modified("run.json")
        assert modified is not None
        assert abs(modified - time.time()) < 600  # by the storage's clock
        with pytest.raises(FileMissing):
            store.modified("shards/000000.json")

    def test_a_hint_is_read_back_too(self, store: Store) -> None:
        store.create("attempts/x.json", b"{}", durable=False)
        assert store.read("attempts/x.json") == b"{}"

    def test_exists(self, store: Store) -> None:
        assert not store.exists("run.json")
        assert not store.exists("no/such/folder.json")
        store.create("run.json", b"{}")
        assert store.exists("run.json")

    @pytest.mark.parametrize("operation", ["read", "open"])
    @pytest.mark.parametrize("path", ["run.json", "shards/000000.json", "nowhere/x.json"])
    def test_a_missing_file_is_named(self, store: Store, operation: str, path: str) -> None:
        with pytest.raises(FileMissing) as caught:
            getattr(store, operation)(path)
        assert caught.value.file == store.locate(path) == f"{store.root}/{path}"
        assert store.locate(path) in str(caught.value)

    def test_an_open_file_is_read_by_lines_and_from_any_place(self, store: Store) -> None:
        lines = [b"%d %s\n" % (i, b"x" * 5000) for i in range(2000)]
        store.create("results/r.jsonl", b"".join(lines))
        with store.open("results/r.jsonl") as file:
            assert list(file) == lines
            file.seek(len(lines[0]))
            assert file.readline() == lines[1]
            assert file.tell() == len(lines[0]) + len(lines[1])
            file.seek(-3, io.SEEK_END)
            assert file.read() == b"xx\n"
            assert file.read() == b""

    def test_two_open_files_do_not_share_a_position(self, store: Store) -> None:
        store.create("results/r.jsonl", b"abc")
        with store.open("results/r.jsonl") as one, store.open("results/r.jsonl") as two:
            assert (one.read(1), two.read(), one.read()) == (b"a", b"abc", b"bc")

    def test_another_store_of_the_same_root_sees_the_file_at_once(self, store: Store) -> None:
        other = open_store(store.root)
        assert other.names("shards") == []
        store.create("shards/000000.json", b"{}")
        assert other.names("shards") == ["000000.json"]

    # --- exclusive and atomic --------------------------------------------------------------------

    @pytest.mark.parametrize("again", [b"first", b"second"])
    def test_a_taken_name_is_refused_and_kept(self, store: Store, again: bytes) -> None:
        store.create("receipts/000000.json", b"first")
        with pytest.raises(FileTaken) as caught:
            store.create("receipts/000000.json", again)
        assert caught.value.file == store.locate("receipts/000000.json")
        assert store.read("receipts/000000.json") == b"first"

    def test_create_leaves_nothing_else_behind(self, store: Store) -> None:
        store.create("receipts/000000.json", b"first")
        with pytest.raises(FileTaken):
            store.create("receipts/000000.json", b"second")
        assert self.raw_names(store.root, "receipts") == {"000000.json"}

    def test_replace_shows_the_last_one_whole(self, store: Store) -> None:
        store.prepare(["workers"])
        for data in (b"one", b"", b"longer than the first"):
            store.replace("workers/a.json", data)
            assert store.read("workers/a.json") == data
        assert store.names("workers") == ["a.json"]
        assert self.raw_names(store.root, "workers") == {"a.json"}

    def test_a_reader_of_what_is_replaced_never_sees_a_part(self, store: Store) -> None:
        store.prepare(["workers"])
        pages = [bytes([65 + i]) * 50_000 for i in range(20)]
        store.replace("workers/a.json", pages[0])

        def write() -> None:
            for page in pages:
                store.replace("workers/a.json", page)

        def read() -> None:
            for _ in pages:
                assert store.read("workers/a.json") in pages

        _run_all([write, read, read])

    def test_of_racing_threads_exactly_one_wins(self, store: Store) -> None:
        n, size = 16, 100_000
        for attempt in range(5):
            path = f"receipts/{attempt:06d}.json"
            start = threading.Barrier(n)
            won: list[int] = []
            lost: list[int] = []

            def create(
                i: int,
                path: str = path,
                start: threading.Barrier = start,
                won: list[int] = won,
                lost: list[int] = lost,
            ) -> None:
                start.wait()
                try:
                    store.create(path, b"%02d" % i * size)
                    won.append(i)
                except FileTaken:
                    lost.append(i)

            _run_all([lambda i=i: create(i) for i in range(n)])  # type: ignore[misc]
            assert (len(won), len(lost)) == (1, n - 1)
            assert store.read(path) == b"%02d" % won[0] * size

    def test_a_reader_never_sees_a_part_of_a_file(self, store: Store) -> None:
        data = b"x" * 500_000
        current = itertools.count()
        paths = [f"receipts/{i:06d}.json" for i in range(20)]
        done = threading.Event()
        seen: list[int] = []

        def read() -> None:
            while not done.is_set():
                for path in paths:
                    try:
                        seen.append(len(store.read(path)))
                    except FileMissing:
                        break
                for name in store.names("receipts"):
                    seen.append(len(store.read(f"receipts/{name}")))

        def write() -> None:
            try:
                for path in paths:
                    next(current)
                    store.create(path, data)
            finally:
                done.set()

        _run_all([read, write])
        assert set(seen) <= {len(data)}

    # --- create_many -----------------------------------------------------------------------------

    def test_create_many_can_be_repeated(self, store: Store) -> None:
        files = [(f"{i:06d}.json", b"%d" % i) for i in range(150)]
        for some, there in ((files[:70], 70), (files, 150), (files[50:], 150)):
            store.create_many("shards", some)
            names = {name for name, _ in files[:there]}
            assert set(store.names("shards")) == self.raw_names(store.root, "shards") == names
            assert all(store.read(f"shards/{name}") == data for name, data in some[::30])

    def test_create_many_refuses_other_contents(self, store: Store) -> None:
        store.create("shards/000003.json", b"other")
        files = [(f"{i:06d}.json", b"%d" % i) for i in range(6)]
        with pytest.raises(FileTaken, match=r"shards/000003\.json"):
            store.create_many("shards", files)
        assert store.read("shards/000003.json") == b"other"
        assert self.raw_names(store.root, "") == set()

    def test_create_many_of_none(self, store: Store) -> None:
        store.create_many("shards", [])
        assert store.names("shards") == []

    def test_of_racing_create_many_all_or_one_succeed(self, store: Store) -> None:
        same = [(f"{i:06d}.json", b"%d" % i) for i in range(self.n_raced)]
        _run_all([lambda: store.create_many("shards", same)] * 4)
        assert {name: store.read(f"shards/{name}") for name, _ in same} == dict(same)
        assert self.raw_names(store.root, "") == set()
        won = []

        def create(me: bytes) -> None:
            with contextlib.suppress(FileTaken):
                store.create_many("logs", [(name, me) for name, _ in same])
                won.append(me)

        _run_all([partial(create, b"%d" % i) for i in range(4)])
        assert len(won) <= 1  # none, where each got some of the names
        assert all(store.read(f"logs/{name}") == me for name, _ in same for me in won)

    def test_create_many_takes_no_more_than_it_works_on(self, store: Store) -> None:
        taken, done = itertools.count(), 0

        def files() -> Iterator[tuple[str, bytes]]:
            nonlocal done
            while (n := next(taken)) < 500:
                if n % 100 == 99:
                    done = max(done, n - self.written(store, "shards"))
                yield f"{n:06d}.json", b"x" * 50_000

        store.create_many("shards", files())
        assert done < 300

    def written(self, store: Store, folder: str) -> int:
        """How many files of a `create_many` that goes on are written."""
        return len(self.raw_names(store.root, folder))

    # --- names -----------------------------------------------------------------------------------

    def test_names_of_a_folders_files(self, store: Store) -> None:
        names = [f"{i:06d}.json" for i in range(5)]
        for i, name in enumerate(names):
            store.create(f"receipts/{name}", b"x" * i)
        assert sorted(store.names("receipts")) == names

    def test_names_of_what_does_not_exist_is_empty(self, store: Store) -> None:
        assert store.names("nowhere") == []
        assert store.names("nowhere/at/all") == []

    def test_names_leave_out_temporary_files(self, store: Store) -> None:
        store.create("receipts/.hidden", b"x")
        store.create("receipts/000000.json", b"{}")
        assert store.names("receipts") == ["000000.json"]

    def test_names_do_not_descend(self, store: Store) -> None:
        store.create("run.json", b"{}")
        store.create("shards/000000.json", b"{}")
        assert store.names("") == ["run.json"]

    def test_names_of_more_than_a_page(self, store: Store) -> None:
        n = 1050  # S3 answers 1000 at a time
        self.fill(store, "shards", [f"{i:06d}.json" for i in range(n)])
        assert len(store.names("shards")) == n

    def fill(self, store: Store, folder: str, names: Sequence[str]) -> None:
        """Have many files; a server may do so faster from within."""
        store.create_many(folder, ((name, b"{}") for name in names))

    # --- roots -----------------------------------------------------------------------------------

    def test_prepare_may_be_repeated(self, store: Store) -> None:
        store.create("run.json", b"{}")
        store.prepare(FOLDERS)
        assert store.read("run.json") == b"{}"
        assert self.raw_names(store.root, "") == {"run.json"}

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_odd_names_of_roots(self, name: str) -> None:
        store = open_store(self.make_root(name))
        store.prepare(FOLDERS)
        store.create("shards/000000.json", b"{}")
        with pytest.raises(FileTaken):
            store.create("shards/000000.json", b"other")
        assert store.root.endswith(name)
        assert store.read("shards/000000.json") == b"{}"
        assert store.exists("shards/000000.json")
        assert store.names("shards") == ["000000.json"]
        assert self.raw_names(store.root, "shards") == {"000000.json"}

    def test_a_slash_at_the_end_of_the_root_means_nothing(self, store: Store) -> None:
        store.create("run.json", b"{}")
        again = open_store(store.root + "/")
        assert again.root == store.root
        assert again.read("run.json") == b"{}"

    # --- append ----------------------------------------------------------------------------------

    def test_append_where_it_is_offered(self, store: Store) -> None:
        if not store.can_append:
            with pytest.raises(StoreError, match="cannot append"):
                store.append("results/r.jsonl")
            assert not store.exists("results/r.jsonl")
            return
        file = store.append("results/r.jsonl")
        assert store.read("results/r.jsonl") == b""
        file.write(b"one\n")
        assert store.read("results/r.jsonl") == b"one\n"
        file.write(b"")
        file.write(b"two\n" * 50_000)
        file.sync()
        assert store.read("results/r.jsonl") == b"one\n" + b"two\n" * 50_000
        file.close()
        with pytest.raises(FileTaken):
            store.append("results/r.jsonl")

    # --- upload ----------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 100_000, (40 << 20) + 7])
    def test_upload_where_it_is_offered(self, store: Store, tmp_path: Path, size: int) -> None:
        source = tmp_path / "of this host"
        source.write_bytes(bytes(range(256)) * (size // 256) + bytes(size % 256))
        if store.can_append:
            with pytest.raises(StoreError, match="nothing needs to be uploaded"):
                store.upload("written/a/hyp.scp", str(source))
            return
        store.upload("written/a/deep/hyp.scp", str(source))
        assert store.exists("written/a/deep/hyp.scp")
        with store.open("written/a/deep/hyp.scp") as file:
            assert file.read() == source.read_bytes()
        store.upload("written/a/deep/hyp.scp", str(source))  # where an answer was lost, say
        assert store.read("written/a/deep/hyp.scp") == source.read_bytes()

    def test_upload_of_nothing_is_an_error(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"written/a/hyp\.scp"):
            store.upload("written/a/hyp.scp", str(tmp_path / "nothing"))

    def test_make_durable(self, store: Store) -> None:
        store.create("results/r.jsonl", b"one\n", durable=False)
        store.make_durable("results/r.jsonl")
        assert store.read("results/r.jsonl") == b"one\n"


class FolderContract(StoreContract):
    """The suite for stores on folders of this host."""

    _roots = itertools.count()

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def make_root(self, name: str) -> str:
        return str(self.folder / str(next(self._roots)) / name)

    def raw_names(self, root: str, folder: str) -> set[str]:
        return {path.name for path in Path(root, folder).iterdir() if path.is_file()}

    def written(self, store: Store, folder: str) -> int:
        return sum(1 for _ in Path(store.root).rglob("*.json"))


def _run_all(tasks: list[Callable[[], None]]) -> None:
    """Run tasks in threads of their own; the first error of any of them is raised."""
    errors: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def numbered_roots(prefix: str) -> Iterator[str]:
    """Prefixes that no other test uses."""
    return (f"{prefix}/{i}" for i in itertools.count())
