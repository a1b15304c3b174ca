"""Paths: a laptop's disk here, NFS, Lustre or GPFS on a cluster."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from espnet3.errors import FileMissing, FileTaken, RunDirectoryError, StoreError
from espnet3.specs.layout import FOLDERS
from espnet3.storage import syncfs
from espnet3.storage.base import IN_FLIGHT, Store
from espnet3.storage.local import LocalStore
from espnet3.storage.opening import open_store
from espnet3.storage.retry import RetryPolicy
from tests.contract.store_contract import FolderContract

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534


class TestLocalStore(FolderContract):
    # --- other processes -------------------------------------------------------------------------

    def test_of_racing_processes_exactly_one_wins(self, store: Store) -> None:
        code = (
            "import sys\n"
            "from espnet3.errors import FileTaken\n"
            "from espnet3.storage.local import LocalStore\n"
            "root, me = sys.argv[1:]\n"
            "store = LocalStore(root)\n"
            "print('ready', flush=True)\n"
            "for line in sys.stdin:\n"
            "    try:\n"
            "        store.create(line.strip(), me.encode() * 100_000)\n"
            "        print(me, flush=True)\n"
            "    except FileTaken:\n"
            "        print('lost', flush=True)\n"
        )
        n = 8
        with contextlib.ExitStack() as stack:
            racers = [
                stack.enter_context(
                    subprocess.Popen(
                        [sys.executable, "-c", code, store.root, str(i)],
                        cwd=REPOSITORY,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        text=True,
                    )
                )
                for i in range(n)
            ]
            assert [_line(racer) for racer in racers] == ["ready"] * n
            for attempt in range(10):
                path = f"receipts/{attempt:06d}.json"
                for racer in racers:
                    assert racer.stdin is not None
                    racer.stdin.write(path + "\n")
                    racer.stdin.flush()
                answers = sorted(_line(racer) for racer in racers)
                assert answers[1:] == ["lost"] * (n - 1)
                assert store.read(path) == answers[0].encode() * 100_000
        assert self.raw_names(store.root, "receipts") == {f"{i:06d}.json" for i in range(10)}

    def test_what_was_written_outlives_a_killed_writer(self, store: Store) -> None:
        code = (
            "import sys\n"
            "from espnet3.storage.local import LocalStore\n"
            "file = LocalStore(sys.argv[1]).append('results/r.jsonl')\n"
            "file.write(b'synced\\n'); file.sync(); file.write(b'written\\n')\n"
            "print('done', flush=True); sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, store.root],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as writer:
            assert _line(writer) == "done"
            writer.send_signal(signal.SIGKILL)
        assert store.read("results/r.jsonl") == b"synced\nwritten\n"

    # --- network file systems --------------------------------------------------------------------

    def test_the_lost_answer_to_a_link_that_succeeded(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "link", _twice(os.link))
        store.create("receipts/000000.json", b"mine")
        assert store.read("receipts/000000.json") == b"mine"
        assert self.raw_names(store.root, "receipts") == {"000000.json"}

    @pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
    def test_folders_that_cannot_be_synced(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        fsync = os.fsync

        def files_only(descriptor: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{descriptor}"):
                raise OSError(code, os.strerror(code))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", files_only)
        store.create("receipts/000000.json", b"mine")
        assert store.read("receipts/000000.json") == b"mine"

    def test_durable_files_are_synced_before_they_have_their_name(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps: list[str] = []
        fsync, link = os.fsync, os.link

        def note_fsync(descriptor: int) -> None:
            is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
            steps.append("sync folder" if is_folder else "sync file")
            fsync(descriptor)

        def note_link(source: str, target: str) -> None:
            steps.append("link")
            link(source, target)

        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "link", note_link)
        store.create("receipts/000000.json", b"mine")
        assert steps == ["sync file", "link", "sync folder"]
        steps.clear()
        store.create("attempts/x.json", b"mine", durable=False)
        assert steps == ["link"]

    def test_each_of_many_is_synced_before_any_has_its_name(
        self, store: Store, system_calls: list[tuple[str, str]], whole: bool
    ) -> None:
        n, most_open = 2000, 0
        open_before = len(os.listdir("/proc/self/fd"))

        def files() -> Iterator[tuple[str, bytes]]:
            nonlocal most_open
            for i in range(n):
                most_open = max(most_open, len(os.listdir("/proc/self/fd")))
                yield f"{i:06d}.json", b"%d" % i

        store.create_many("shards", files())
        hidden = system_calls[-2][1]
        assert os.path.dirname(hidden) == store.root
        *synced, rename, sync_root = system_calls
        assert (rename, sync_root) == (("rename", hidden), ("fsync", store.root))
        if whole:
            assert synced == [("syncfs", hidden)]
        else:
            assert synced[-1] == ("fsync", hidden)
            names = [(call, os.path.relpath(path, hidden)) for call, path in synced[:-1]]
            assert sorted(names) == [("fsync", f"{i:06d}.json") for i in range(n)]
        assert most_open - open_before <= IN_FLIGHT + 3  # the folder, /proc, and one to spare
        assert all(store.read(f"shards/{i:06d}.json") == b"%d" % i for i in range(0, n, 99))
        assert self.all_of(store) == {"shards"}

    def test_many_beside_others_are_synced_before_they_have_their_names(
        self, store: Store, system_calls: list[tuple[str, str]], whole: bool
    ) -> None:
        store.create("shards/000000.json", b"0")
        system_calls.clear()
        store.create_many("shards", [(f"{i:06d}.json", b"%d" % i) for i in range(40)])
        calls = [call for call, _ in system_calls]
        n_synced = 1 if whole else 41
        assert calls[:n_synced] == [*["fsync"] * (n_synced - 1), "syncfs" if whole else "fsync"]
        assert calls.count("link") == 39
        # In the end each folder, in which others may have made the same files just now.
        ends = [i for i, call in enumerate(system_calls) if call == ("fsync", store.root)]
        assert len(ends) == 1
        assert system_calls[ends[0] - 1] == ("fsync", store.locate("shards"))
        assert calls[ends[0] + 1 :] == ["unlink"] * 40
        assert all(store.read(f"shards/{i:06d}.json") == b"%d" % i for i in range(40))
        assert self.all_of(store) == {"shards"}

    @pytest.fixture
    def system_calls(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """What the system does from now on: call and path; the first of two paths."""
        calls: list[tuple[str, str]] = []

        def noted(name: str, action: Callable[..., None]) -> Callable[..., None]:
            def call(what: int | str, *more: str) -> None:
                path = os.readlink(f"/proc/self/fd/{what}") if isinstance(what, int) else what
                action(what, *more)
                calls.append((name, path))

            return call

        for name in ("fsync", "link", "unlink", "rename"):
            monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
        monkeypatch.setattr(syncfs, "sync_whole", noted("syncfs", syncfs.sync_whole))
        return calls

    @pytest.fixture(params=[True, False])
    def whole(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Whether the whole file system is synced, or each file."""
        whole: bool = request.param
        monkeypatch.setattr(syncfs, "can_sync_whole", lambda folder: whole)
        return whole

    def all_of(self, store: Store) -> set[str]:
        """What is in the run directory, but for empty folders that it should have."""
        there = {path.name: path for path in Path(store.root).iterdir()}
        return {n for n, path in there.items() if n not in FOLDERS or any(path.iterdir())}

    def test_many_that_are_cut_short_leave_neither_debris_nor_threads(
        self, store: Store, monkeypatch: pytest.MonkeyPatch, whole: bool
    ) -> None:
        files = [(f"{i:06d}.json", b"{}") for i in range(500)]

        def full(descriptor: int) -> None:
            if whole or next(calls) > 50:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(descriptor)

        fsync, calls = os.fsync, itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(*(syncfs, "sync_whole", full) if whole else (os, "fsync", full))
            with pytest.raises(StoreError, match="No space left on device"):
                store.create_many("shards", files)
        assert not _storage_threads()
        assert self.all_of(store) == set()

        def interrupted() -> Iterator[tuple[str, bytes]]:
            yield from files[:100]
            assert _storage_threads()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.create_many("shards", interrupted())
        assert not _storage_threads()
        assert self.all_of(store) == set()
        store.create_many("shards", files)
        assert len(store.names("shards")) == 500

    def test_a_killed_writer_of_many_leaves_none_and_hinders_nobody(self, store: Store) -> None:
        code = (
            "import os, sys\n"
            "from espnet3.storage.local import LocalStore\n"
            "def files():\n"
            "    for i in range(200):\n"
            "        yield f'{i:06d}.json', b'x'\n"
            "    os.kill(os.getpid(), 9)\n"
            "LocalStore(sys.argv[1]).create_many('shards', files())\n"
        )
        done = subprocess.run([sys.executable, "-c", code, store.root], cwd=REPOSITORY, check=False)
        assert done.returncode == -signal.SIGKILL
        assert store.names("shards") == store.names("") == []
        store.create_many("shards", [(f"{i:06d}.json", b"y") for i in range(300)])
        assert len(store.names("shards")) == 300
        assert store.read("shards/000000.json") == b"y"

    def test_a_folder_that_is_a_link_is_filled(self, store: Store) -> None:
        elsewhere = self.folder / "elsewhere"
        elsewhere.mkdir()
        os.rmdir(store.locate("shards"))
        os.symlink(elsewhere, store.locate("shards"))
        store.create_many("shards", [("000000.json", b"{}")])
        assert (elsewhere / "000000.json").read_bytes() == b"{}"
        assert os.path.islink(store.locate("shards"))

    def test_a_folder_that_is_elsewhere_is_filled(self, store: Store) -> None:
        elsewhere = tempfile.mkdtemp(dir="/dev/shm")
        try:
            assert os.stat(elsewhere).st_dev != os.stat(store.root).st_dev
            os.rmdir(store.locate("shards"))
            os.symlink(elsewhere, store.locate("shards"))
            store.create_many("shards", [("000000.json", b"{}")])
            assert store.read("shards/000000.json") == b"{}"
            assert self.all_of(store) == {"shards"}
        finally:
            shutil.rmtree(elsewhere)

    @pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
    def test_a_folder_that_is_a_mount_is_filled(self, store: Store) -> None:
        folder = store.locate("shards")
        words = ["mount", "-t", "tmpfs", "tmpfs", folder]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("nothing can be mounted here")
        try:
            store.create_many("shards", [("000000.json", b"{}")])
            assert store.names("shards") == ["000000.json"]
        finally:
            subprocess.run(["umount", folder], check=True)

    @pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
    @pytest.mark.parametrize("blind", [False, True])
    def test_a_rename_of_which_nothing_is_known_is_an_error_and_removes_nothing(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int, blind: bool
    ) -> None:
        files = [(f"{i:06d}.json", b"%d" % i) for i in range(20)]
        store.retry = RetryPolicy(tries=2, sleep=lambda seconds: None)

        def fail(*paths: str) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            if blind:  # nor can anything be asked
                patch.setattr(os, "stat", fail)
            with pytest.raises(StoreError, match=os.strerror(code)):
                store.create_many("shards", files)
        assert store.names("shards") == []
        (hidden,) = (name for name in os.listdir(store.root) if name.startswith(".shards."))
        assert len(os.listdir(store.locate(hidden))) == 20
        store.create_many("shards", files)
        assert len(store.names("shards")) == 20

    def test_a_rename_that_was_done_and_failed_removes_nothing(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = os.rename

        def done_but_blind(source: str, target: str) -> None:
            rename(source, target)
            os.symlink(target, source)  # what a client remembers of the old name leads there, too
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "rename", done_but_blind)
        store.create_many("shards", [("000000.json", b"{}")])
        assert store.names("shards") == ["000000.json"]

    def test_a_hidden_folder_that_somebody_removed_is_an_error(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = os.rename

        def too_late(source: str, target: str) -> None:
            shutil.rmtree(source)
            rename(source, target)

        monkeypatch.setattr(os, "rename", too_late)
        with pytest.raises(StoreError, match="shards"):
            store.create_many("shards", [("000000.json", b"{}")])

    def test_a_cleanup_that_cannot_be_done_is_left(
        self, store: LocalStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pauses: list[float] = []
        store.retry = RetryPolicy(sleep=pauses.append)

        def fail(path: str) -> None:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

        def files() -> Iterator[tuple[str, bytes]]:
            yield from ((f"{i:06d}.json", b"") for i in range(100))
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "unlink", fail)
        with pytest.raises(KeyboardInterrupt):
            store.create_many("shards", files())
        assert pauses == []

    def test_a_name_that_comes_twice_is_an_error(self, store: Store) -> None:
        with pytest.raises(StoreError, match="File exists"):
            store.create_many("shards", [("000000.json", b"1"), ("000000.json", b"2")])
        assert self.all_of(store) == set()

    def test_the_lost_answer_to_a_rename_that_succeeded(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "rename", _twice(os.rename))
        store.create_many("shards", [("000000.json", b"{}")])
        assert store.names("shards") == ["000000.json"]

    def test_the_new_folder_is_for_the_same_people(self, store: Store) -> None:
        before = os.stat(store.locate("shards"))
        store.create_many("shards", [("000000.json", b"{}")])
        after = os.stat(store.locate("shards"))
        assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
        assert after.st_ino != before.st_ino

    # --- what goes wrong -------------------------------------------------------------------------

    def test_a_full_disk_leaves_no_debris(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(descriptor: int) -> None:  # network file systems say so at the end
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device") as caught:
            store.create("receipts/000000.json", b"mine")
        assert caught.value.file == store.locate("receipts/000000.json")
        assert self.raw_names(store.root, "receipts") == set()
        file = LocalStore(store.root)
        with pytest.raises(StoreError, match="No space left on device"):
            file.append("results/r.jsonl")

    def test_a_really_full_disk(self, full_disk: str) -> None:
        store = open_store(f"{full_disk}/run")
        store.prepare(FOLDERS)
        with pytest.raises(StoreError, match="No space left on device"):
            store.create("receipts/000000.json", b"x" * 500_000)
        assert self.raw_names(store.root, "receipts") == set()
        file = store.append("results/r.jsonl")
        with pytest.raises(StoreError, match="No space left on device"):
            file.write(b"x" * 500_000)
        file.close()

    def test_a_folder_that_cannot_be_written(self, unprivileged: str) -> None:
        with pytest.raises(RunDirectoryError, match=r"Permission denied.*choose another run_dir"):
            open_store(f"{unprivileged}/run").prepare(FOLDERS)
        store = open_store(unprivileged)
        for operation in (store.append, lambda path: store.create(path, b"x")):
            with pytest.raises(StoreError, match="Permission denied"):
                operation("run.json")

    @pytest.mark.parametrize("below", ["", "/below", "/far/below"])
    def test_a_root_that_is_a_file(self, tmp_path: Path, below: str) -> None:
        (tmp_path / "file").write_text("not a folder")
        store = open_store(f"{tmp_path}/file{below}")
        with pytest.raises(RunDirectoryError, match="is a file, or below a file"):
            store.prepare(FOLDERS)
        assert not store.exists("run.json")
        with pytest.raises(FileMissing):
            store.read("run.json")

    def test_a_folder_in_the_place_of_a_file(self, store: Store) -> None:
        with pytest.raises(StoreError):
            store.read("shards")
        with pytest.raises(StoreError, match="/shards: Is a directory; only a file may have that"):
            store.create("shards", b"x")

    def test_a_folder_that_was_removed(self, store: Store) -> None:
        shutil.rmtree(store.locate("shards"))
        assert store.names("shards") == []
        with pytest.raises(StoreError):
            store.create("shards/000000.json", b"{}")

    @pytest.fixture
    def full_disk(self, tmp_path: Path) -> Iterator[str]:
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk needs root")
        yield str(folder)
        subprocess.run(["umount", str(folder)], check=True)

    @pytest.fixture
    def unprivileged(self) -> Iterator[str]:
        """A folder that this process may read and not write."""
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o555)
            root = os.geteuid() == 0
            if root:
                os.seteuid(NOBODY)
            try:
                yield folder
            finally:
                if root:
                    os.seteuid(0)
                os.chmod(folder, 0o755)


def _twice(call: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """A call that is done and repeated, as by a client that lost the answer."""

    def twice(source: str, target: str) -> None:
        call(source, target)
        call(source, target)

    return twice


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


class TestOpenStore:
    def test_a_relative_path_becomes_absolute(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        store = open_store("run/../run/")
        assert store.root == str(tmp_path / "run")
        monkeypatch.chdir("/")
        store.prepare(FOLDERS)
        assert (tmp_path / "run" / "shards").is_dir()

    def test_the_home_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/somebody")
        assert open_store("~/run").root == "/home/somebody/run"
        assert open_store(Path("~/run")).root == "/home/somebody/run"

    def test_a_file_url(self, tmp_path: Path) -> None:
        store = open_store(f"file://{tmp_path}")
        assert isinstance(store, LocalStore)
        assert store.root == str(tmp_path)

    @pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "~no-such-user/run"])
    def test_what_is_no_path(self, path: str) -> None:
        with pytest.raises(RunDirectoryError) as caught:
            open_store(path)
        assert "\n" not in str(caught.value)

    def test_paths_need_no_fsspec(self) -> None:
        code = (
            "import sys\n"
            "from espnet3.storage.opening import open_store\n"
            "open_store('/tmp')\n"
            "sys.exit('fsspec' in sys.modules or 'pydantic' in sys.modules)\n"
        )
        subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True)


def test_links_to_files_are_listed_and_other_links_are_not(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.create("a", b"abc")
    os.symlink("a", tmp_path / "b")
    os.symlink("nothing", tmp_path / "c")
    os.symlink(".", tmp_path / "d")
    assert sorted(store.names("")) == ["a", "b"]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "Is not a regular file"),
        (os.mkdir, "Is a directory"),
        (lambda path: os.symlink("nothing", path), "Is a link to nothing"),
        (lambda path: os.symlink("/dev/null", path), "Is not a regular file"),
    ],
    ids=["pipe", "folder", "link to nothing", "device"],
)
def test_what_has_the_name_of_a_record_and_is_none(
    tmp_path: Path, make: Callable[[Path], None], problem: str
) -> None:
    store = LocalStore(str(tmp_path))
    (tmp_path / "receipts").mkdir()
    make(tmp_path / "receipts/000000.json")
    make(tmp_path / "receipts/foreign")
    words = f"receipts/000000.json: {problem}; only a file may have that name, so move it away"
    asked: list[Callable[[], object]] = [
        lambda: store.names("receipts"),
        lambda: store.exists("receipts/000000.json"),
        lambda: store.create("receipts/000000.json", b"{}"),
    ]
    for ask in asked:
        with pytest.raises(StoreError, match=words) as raised:
            ask()
        assert not isinstance(raised.value, FileTaken)
    (tmp_path / "receipts/000000.json").rename(tmp_path / "elsewhere")
    assert store.names("receipts") == []


def _storage_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "espnet3-storage" in thread.name]
