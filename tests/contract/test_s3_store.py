"""S3 over HTTP, against moto's server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import s3fs
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer

from espnet3.errors import FileMissing, FileTaken, RunDirectoryError, StoreError
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.storage.retry import RetryPolicy
from tests.contract.store_contract import StoreContract, numbered_roots
from tests.support.helpers import LONG

pytestmark = pytest.mark.s3

_roots = numbered_roots("s3://contract")

Answer = tuple[str, list[tuple[str, str]], bytes]
Fault = Callable[[dict[str, Any], Callable[[], Answer]], Answer]


class Server:
    """Stands before moto's application.

    It lets one request through at a time: moto looks first and writes then, which S3 does as one
    step. `faults` are applied to the next conditional puts, one to each.
    """

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app, self._lock = app, threading.Lock()
        self.faults: list[Fault] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with self._lock:
            fault = None
            if self.faults and environ["REQUEST_METHOD"] in ("PUT", "POST"):
                fault = self.faults.pop(0)

            def answer() -> Answer:
                head: list[Any] = []
                body = self._app(environ, lambda *args: head.extend(args[:2]))
                return head[0], head[1], b"".join(body)

            status, headers, body = fault(environ, answer) if fault else answer()
        start_response(status, headers)
        return [body]


def error(status: str, code: str) -> Answer:
    """An error as S3 words it."""
    body = f"<Error><Code>{code}</Code><Message>the store says {code}</Message></Error>".encode()
    return status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body


def lose_answer(environ: dict[str, Any], answer: Callable[[], Answer]) -> Answer:
    """Do what was asked, and fail to say so."""
    answer()
    return error("500 Internal Server Error", "InternalError")


def ignore_condition(environ: dict[str, Any], answer: Callable[[], Answer]) -> Answer:
    """Do as a store does that never heard of conditional puts."""
    environ.pop("HTTP_IF_NONE_MATCH", None)
    return answer()


def say(status: str, code: str) -> Fault:
    """Refuse a request."""
    return lambda environ, answer: error(status, code)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    moto = ThreadedMotoServer(port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    wsgi: Any = moto._server
    wsgi.app = server = Server(wsgi.app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # fsspec keeps file systems, with the endpoint that they were made with.
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("contract")
        yield server
        s3fs.S3FileSystem.clear_instance_cache()
    moto.stop()


@pytest.fixture(autouse=True)
def no_faults(server: Server) -> Iterator[None]:
    yield
    left, server.faults = server.faults, []
    assert not left


class TestS3Store(StoreContract):
    n_raced = 40 if LONG else 12  # moto takes its time

    def make_root(self, name: str) -> str:
        return f"{next(_roots)}/{name}"

    def raw_names(self, root: str, folder: str) -> set[str]:
        path = f"{root}/{folder}".removeprefix("s3://").rstrip("/")
        found = s3fs.S3FileSystem().ls(path, detail=True, refresh=True)
        return {entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def fill(self, store: Store, folder: str, names: Sequence[str]) -> None:
        if LONG:
            super().fill(store, folder, names)
            return
        bucket, _, prefix = store.root.removeprefix("s3://").partition("/")
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for name in names:
            backend.put_object(bucket, f"{prefix}/{folder}/{name}", b"{}")

    def test_a_conflict_with_its_own_first_try_is_a_success(
        self, store: Store, server: Server
    ) -> None:
        server.faults = [lose_answer]
        store.create("receipts/000000.json", b"mine")
        assert store.read("receipts/000000.json") == b"mine"
        with pytest.raises(FileTaken):
            store.create("receipts/000000.json", b"mine")

    def test_a_put_that_collided_with_another_is_repeated(
        self, store: Store, server: Server
    ) -> None:
        server.faults = [say("409 Conflict", "ConditionalRequestConflict")]
        store.create("receipts/000000.json", b"mine")
        assert store.read("receipts/000000.json") == b"mine"

    def test_a_conflict_is_known_by_its_code_alone(self, store: Store, server: Server) -> None:
        store.create("receipts/000000.json", b"theirs")
        server.faults = [say("412 Precondition Failed", "PreconditionFailed")]  # no <Condition>
        with pytest.raises(FileTaken):
            store.create("receipts/000000.json", b"mine")

    def test_endless_conflicts_about_nothing_are_an_error(
        self, store: Store, server: Server
    ) -> None:
        pauses: list[float] = []
        store.retry = RetryPolicy(tries=8, sleep=pauses.append)
        server.faults = [say("409 Conflict", "ConditionalRequestConflict")] * 8
        with pytest.raises(StoreError, match=r"there is no file \(tried 8 times\)"):
            store.create("receipts/000000.json", b"mine")
        assert len(pauses) == 7

    def test_what_the_store_says_is_in_the_error(self, store: Store, server: Server) -> None:
        server.faults = [say("403 Forbidden", "AccessDenied")]
        with pytest.raises(StoreError, match="the store says AccessDenied") as caught:
            store.create("receipts/000000.json", b"mine")
        assert type(caught.value) is StoreError
        assert caught.value.file == store.locate("receipts/000000.json")

    def test_a_file_of_several_parts_is_exclusive_too(self, store: Store) -> None:
        data = b"x" * (101 * 2**20)  # s3fs sends parts from 100 MiB
        store.create("results/r.jsonl", data)
        with pytest.raises(FileTaken):
            store.create("results/r.jsonl", data)
        assert store.names("results") == ["r.jsonl"]

    @pytest.mark.parametrize("size", [1000, 40 << 20])
    @pytest.mark.parametrize("n_faults", [1, 2])
    def test_an_upload_is_repeated_where_the_store_is_busy(
        self, store: Store, server: Server, tmp_path: Path, size: int, n_faults: int
    ) -> None:
        source = tmp_path / "hyp.scp"
        source.write_bytes(bytes(size))
        server.faults = [lambda environ, answer: error("503 Slow Down", "SlowDown")] * n_faults
        store.upload("written/a/hyp.scp", str(source))
        assert server.faults == []
        with store.open("written/a/hyp.scp") as file:
            assert file.read() == bytes(size)

    def test_files_of_other_processes_are_seen_at_once(self, store: Store) -> None:
        store.create("receipts/000000.json", b"{}")
        assert store.names("receipts") == ["000000.json"]
        assert not store.exists("receipts/000001.json")
        other = s3fs.S3FileSystem(skip_instance_cache=True)  # shares no cache with the store's
        other.pipe_file(f"{store.root}/receipts/000001.json", b"[1]")
        assert store.exists("receipts/000001.json")
        assert sorted(store.names("receipts"))[1:] == ["000001.json"]


@pytest.mark.usefixtures("server")
class TestPrepare:
    def test_a_missing_bucket(self) -> None:
        store = open_store("s3://no-such-bucket/run")
        with pytest.raises(RunDirectoryError, match="no such bucket"):
            store.prepare(())
        with pytest.raises(FileMissing):
            store.read("run.json")

    def test_a_bucket_that_cannot_be_written(self, server: Server) -> None:
        server.faults = [say("403 Forbidden", "AccessDenied")]
        with pytest.raises(RunDirectoryError, match=r"cannot be written \(the store says Access"):
            open_store("s3://contract/forbidden").prepare(())

    def test_a_store_without_conditional_puts(self, server: Server) -> None:
        server.faults = [ignore_condition, ignore_condition]
        with pytest.raises(RunDirectoryError, match="If-None-Match"):
            open_store("s3://contract/careless").prepare(())

    def test_nothing_is_left_behind(self) -> None:
        open_store("s3://contract/clean").prepare(("shards",))
        assert s3fs.S3FileSystem().find("contract/clean", refresh=True) == []
