"""What a run costs, counted: operations on the store, system calls, requests, files, bytes.

A `Life` is a run from submission to collection in one process, beside the stand-in for a batch
system, so that every step can be counted by itself. `python -m tests.support.counting` lives
one below strace.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import secrets
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from moto.server import ThreadedMotoServer

from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import Run, submit_run
from espnet3.schedulers.base import TaskState
from espnet3.storage import syncfs
from espnet3.storage.base import AppendFile, Store
from espnet3.storage.local import LocalStore
from espnet3.submit import submitter
from espnet3.worker.main import main as worker
from tests.support import stand_in_cluster
from tests.support.world import worker_surroundings

ROOT = Path(__file__).resolve().parents[2]
Step = Callable[[str], contextlib.AbstractContextManager[object]]

SUBMIT, QUEUED, WORK, LOST = "submit", "status, all queued", "work", "status, one lost"
RESUME, AGAIN, DONE = "resume of one", "work, resumed", "status, all done"
TO_FILE, TO_LIST = "collect to a file", "collect to a list"
STEPS = (SUBMIT, QUEUED, WORK, LOST, RESUME, AGAIN, DONE, TO_FILE, TO_LIST)


class Nothing(EnvironmentProvider):
    """An empty environment."""

    def build_env_local(self) -> dict[str, Any]:
        return {}


class Same(BaseRunner):
    """Gives the item back."""

    @staticmethod
    def forward(idx: Any) -> Any:
        return idx


def live(
    run_dir: str,
    n_shards: int,
    folder: Path,
    step: Step,
    *,
    items: Sequence[Any] = (),
    shards_per_job: int = 1,
) -> dict[str, int]:
    """Live a run of one item per shard, or of some items; its first shard is lost and resumed.

    Args:
        run_dir: a path or URL.
        n_shards: how many shards.
        folder: where logs and the merged file go.
        step: entered for each of STEPS, in this order.
        items: other items.
        shards_per_job: how many shards a task computes.

    Returns:
        Figures that no counter sees: `log` is the bytes that all workers together logged.
    """
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        cluster = stand_in_cluster.install(patch)
        patch.setattr(submitter, "_git_commit", lambda: None)
        # As on a network file system, where each file is synced by itself.
        patch.setattr(syncfs, "can_sync_whole", lambda folder: False)
        patch.chdir(folder)

        def work(ranks: Iterable[int] | None = None) -> None:
            queued = cluster.queued()
            for task in queued if ranks is None else [queued[rank] for rank in ranks]:
                with worker_surroundings(), contextlib.redirect_stderr(said):
                    worker(task.words, task.environ())
            for task in queued:
                task.state = TaskState("ended", "COMPLETED")

        parallel = {
            "env": stand_in_cluster.NAME,
            "n_workers": n_shards,
            "n_shards": n_shards,
            "shards_per_job": shards_per_job,
            "preflight": False,
            "checkpoint_every": 3600,
        }
        with step(SUBMIT):
            run = submit_run(
                Same(Nothing({})), items or range(n_shards), run_dir=run_dir, parallel=parallel
            )
        with step(QUEUED):
            run.status()
        n_tasks = len(cluster.queued())
        with step(WORK):
            work(range(1 if n_tasks > 1 else 0, n_tasks))
        if n_tasks > 1:
            with step(LOST):
                assert not run.status().done
            with step(RESUME):
                run.resume()
            with step(AGAIN):
                work()
        with step(DONE):
            assert Run(run_dir).status().done
        with step(TO_FILE):
            run.collect(str(folder / "merged.jsonl"), patience=0)
        with step(TO_LIST):
            assert run.collect(patience=0) == list(items or range(n_shards))
    return {"log": len(said.getvalue())}


# --- operations on the store ----------------------------------------------------------------------

_OPERATIONS = sorted(
    Store.__abstractmethods__ - {"append"} | {"refresh", "make_durable", "read_beginning"}
)


def store_operations(folder: Path, n_shards: int, **keys: Any) -> dict[str, Counter[str]]:
    """Step -> operation of the store -> how often, for a run on a local disk.

    What an operation does by others of the store is not counted again.
    """
    found: dict[str, Counter[str]] = {name: Counter() for name in STEPS}
    now: list[Counter[str]] = [Counter()]

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        now[0] = found[name]
        yield
        now[0] = Counter()

    def count(name: str) -> None:
        now[0][name] += 1

    with counting_store(count):
        live(str(folder / "run"), n_shards, folder, step, **keys)
    return found


@contextlib.contextmanager
def counting_store(count: Callable[[str], None]) -> Iterator[None]:
    """Tell of each operation of a store on a local disk, while it is entered.

    What an operation does by others of the store is not told.

    Args:
        count: called with the operation's name.
    """
    within = threading.local()

    def counted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: LocalStore, *args: Any, **kwargs: Any) -> Any:
            if getattr(within, "busy", False):
                return method(self, *args, **kwargs)
            count(name)
            within.busy = True
            try:
                return method(self, *args, **kwargs)
            finally:
                within.busy = False

        return call

    create_many, append = LocalStore.create_many, LocalStore.append

    def counted_create_many(self: LocalStore, folder: str, files: Any) -> None:
        def each() -> Iterator[Any]:
            for file in files:
                count("create")
                yield file

        create_many(self, folder, each())

    def counted_append(self: LocalStore, path: str) -> AppendFile:
        count("append")
        return _CountedAppendFile(append(self, path), count)

    with pytest.MonkeyPatch.context() as patch:
        for name in _OPERATIONS:
            patch.setattr(LocalStore, name, counted(name, getattr(LocalStore, name)))
        patch.setattr(LocalStore, "create_many", counted_create_many)
        patch.setattr(LocalStore, "append", counted_append)
        yield


class _CountedAppendFile(AppendFile):
    def __init__(self, file: AppendFile, count: Callable[[str], None]) -> None:
        self._file, self._count = file, count

    def write(self, data: bytes) -> None:
        self._count("write")
        self._file.write(data)

    def sync(self) -> None:
        self._count("sync")
        self._file.sync()

    def close(self) -> None:
        self._file.close()


# --- system calls ---------------------------------------------------------------------------------

_KINDS = {
    "open": ("open", "openat", "creat"),
    "look": ("stat", "lstat", "newfstatat", "statx", "access", "faccessat2", "readlink"),
    "name": ("link", "linkat", "unlink", "unlinkat", "mkdir", "rename", "renameat2", "chmod"),
    "list": ("getdents64",),
    "sync": ("fsync", "fdatasync"),
    "data": ("read", "pread64", "write", "pwrite64", "writev", "sendfile", "copy_file_range"),
}
_KIND_OF = {call: kind for kind, calls in _KINDS.items() for call in calls}
_MARK = "/entering-step/"


def has_strace() -> bool:
    """Whether system calls can be counted here."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "true"], capture_output=True, check=False).returncode == 0


def system_calls(folder: Path, n_shards: int, **keys: Any) -> dict[str, Counter[str]]:
    """Step -> kind of system call on the run directory -> how often, by strace.

    Kinds: `open`, `look` (stat and the like, by path), `name` (link, unlink, mkdir, rename),
    `list`, `sync` (fsync) and `data` (read, write). What is done with an open descriptor without
    asking the file system (lseek, close, fstat) is left out.
    """
    trace, run_dir = folder / "trace", str(folder / "run")
    command = ["strace", "-f", "-y", "-s", "4096", "-e", f"trace={','.join(_KIND_OF)}"]
    program = [sys.executable, "-m", __name__, run_dir, str(n_shards), json.dumps(keys)]
    done = subprocess.run(
        [*command, "-o", str(trace), *program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Counter[str]] = {name: Counter() for name in STEPS}
    current: Counter[str] = Counter()
    call = re.compile(r"(?:\d+ +)?(\w+)\(")
    with trace.open(errors="replace") as lines:
        for line in lines:
            _, mark, name = line.partition(_MARK)
            if mark:
                current = found[STEPS[int(name[0])]]
            elif run_dir in line and (named := call.match(line)) is not None:
                kind = _KIND_OF[named[1]]
                if kind != "look" or ', ""' not in line:  # without a path it is fstat
                    current[kind] += 1
    trace.unlink()
    return found


@contextlib.contextmanager
def _marked(name: str) -> Iterator[None]:
    with contextlib.suppress(FileNotFoundError):
        Path(f"{_MARK}{STEPS.index(name)}").stat()
    yield


# --- requests -------------------------------------------------------------------------------------


class RequestCounter:
    """An S3 server of this process that counts requests by kind: PUT, GET, HEAD, LIST, DELETE."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serve; yields the URL of an empty bucket, which this process's s3fs will find."""
        import s3fs

        bucket = f"growth-{secrets.token_hex(4)}"  # moto's servers of one process share their state
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        wsgi: Any = server._server
        app = wsgi.app

        def counted(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            kind = environ["REQUEST_METHOD"]
            query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
            if kind == "GET" and ("list-type" in query or "prefix" in query):
                kind = "LIST"
            with self._lock:
                self.counts[kind] += 1
            answer: Iterable[bytes] = app(environ, start_response)
            return answer

        wsgi.app = counted
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logging.getLogger("werkzeug"), "disabled", True)
            patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "test")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().mkdir(bucket)
            try:
                yield f"s3://{bucket}"
            finally:
                s3fs.S3FileSystem.clear_instance_cache()
                server.stop()


def requests(folder: Path, n_shards: int, **keys: Any) -> dict[str, Counter[str]]:
    """Step -> kind of request -> how often, for a run on S3."""
    counter = RequestCounter()
    found: dict[str, Counter[str]] = {}

    @contextlib.contextmanager
    def step(name: str) -> Iterator[None]:
        counter.counts.clear()
        yield
        found[name] = Counter(counter.counts)

    with counter.serve() as bucket:
        live(f"{bucket}/run", n_shards, folder, step, **keys)
    return found


# --- files and bytes ------------------------------------------------------------------------------


def files_and_bytes(folder: Path, n_shards: int, **keys: Any) -> dict[str, int]:
    """What a whole run leaves on a local disk: files, their bytes, and the bytes of their blocks.

    With `.shards`, `.results` and so on for each folder; `log` is the bytes that workers logged,
    which a scheduler writes to a file for each task.
    """
    figures = live(
        str(folder / "run"), n_shards, folder, lambda name: contextlib.nullcontext(), **keys
    )
    found = Counter(figures)
    for path in Path(folder, "run").rglob("*"):
        if path.is_file():
            status = path.stat()
            found["files"] += 1
            found["bytes"] += status.st_size
            found["blocks"] += status.st_blocks * 512
            found[f"files.{path.parent.name}"] += 1
            found[f"bytes.{path.parent.name}"] += status.st_size
    return dict(found)


def per_shard(
    count: Callable[[int], dict[str, Counter[str]]], few: int, many: int
) -> dict[str, dict[str, float]]:
    """Step -> kind -> how many more for each more shard, between two runs; zeros left out."""
    small, large = count(few), count(many)
    found: dict[str, dict[str, float]] = {}
    for step, counts in large.items():
        for kind, n in sorted(counts.items()):
            more = (n - small[step][kind]) / (many - few)
            if more:
                found.setdefault(step, {})[kind] = more
    return found


if __name__ == "__main__":
    _run_dir, _n_shards, _keys = sys.argv[1:]
    live(_run_dir, int(_n_shards), Path(_run_dir).parent, _marked, **json.loads(_keys))
