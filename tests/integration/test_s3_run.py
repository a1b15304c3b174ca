"""The whole life of a run whose directory is on S3: a real server over HTTP, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import espnet3
from espnet3.errors import CodeChanged, DamagedResult, IncompleteRun, RunDirectoryError, StoreError
from espnet3.parallel import set_parallel
from espnet3.run import Run, submit_run
from espnet3.run_dir.output_names import FORMS
from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.storage.opening import open_store
from espnet3.storage.retry import RetryPolicy
from tests.support.faulty_proxy import (
    KINDS,
    SHORT,
    FaultyProxy,
    Request,
    Schedule,
    at_random,
    faulty_s3,
)
from tests.support.finished_runs import finished_run
from tests.support.helpers import (
    LONG,
    kill_all,
    locally,
    noted,
    once,
    parallel,
    processes_of,
    states,
    submit_noting,
    wait_for,
)
from tests.support.mortal import Died, Process, reach
from tests.support.runners import GATE, Noting, Workshop
from tests.support.s3_runners import Gate, Large, Waiting

pytestmark = pytest.mark.s3


def test_submit_fail_resume_and_collect_on_s3(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gate = tmp_path / "gate"
    provider = Gate({"gate": str(gate)})
    set_parallel({"env": "local", "n_workers": 2, "n_shards": 2})
    try:
        run = Waiting(provider, async_mode=True, run_dir=f"{bucket}/a run")(range(10))
    finally:
        set_parallel(None)
    assert isinstance(run, espnet3.Run)
    state = run.wait(timeout=60, interval=0.2)
    assert state.counts() == {"done": 1, "failed": 1}, state.unfinished()
    with pytest.raises(IncompleteRun) as caught:
        run.collect(patience=0)
    assert caught.value.ranks == [1]
    assert "item 7: RuntimeError: the gate is shut" in caught.value.causes[1]

    gate.touch()
    assert run.resume().ranks == [1]
    state = run.wait(timeout=60, interval=0.2)
    assert state.done, state.unfinished()
    assert run.collect(patience=0) == [i * i for i in range(10)]

    written = run.collect(f"{bucket}/merged.jsonl", patience=0)
    import s3fs

    lines = s3fs.S3FileSystem().cat(written.output).splitlines()
    assert [json.loads(line)["result"] for line in lines] == [i * i for i in range(10)]
    assert run.logs(1)[0].startswith(str(tmp_path / "espnet3_logs"))


@pytest.mark.filterwarnings("ignore::espnet3.submit.process_record.NotTakenOver")
@pytest.mark.parametrize("form", FORMS)
def test_each_form_goes_to_s3_too(bucket: str, tmp_path: Path, form: str) -> None:
    """With a type that comes late, so that a table is begun anew there."""
    import s3fs

    results = [{"n": i, "text": f"„{i}“\n"} for i in range(40)] + [{"n": 0.5}]
    run = Run(finished_run(tmp_path, results))
    url = f"{bucket}/new folder/x{form}"
    assert run.collect(url).records == 41
    run.collect(tmp_path / f"x{form}")
    fs = s3fs.S3FileSystem(use_listings_cache=False)
    assert fs.cat_file(url) == (tmp_path / f"x{form}").read_bytes()
    fs.rm(url)
    damaged = next(Path(run.run_dir, layout.RESULTS).glob("000002.*"))
    damaged.write_bytes(damaged.read_bytes().replace(b"0.5", b"1.5"))
    with pytest.raises(DamagedResult):
        run.collect(url, patience=0)
    assert not fs.exists(url)


@pytest.mark.filterwarnings("ignore::espnet3.submit.process_record.NotTakenOver")
def test_files_for_kaldi_go_to_s3_too(bucket: str, tmp_path: Path) -> None:
    import s3fs

    results = [{"id": f"u{i}", "text": f"„{i}“"} for i in range(12)]
    run = Run(finished_run(tmp_path, results))
    run.to_kaldi(f"{bucket}/exp/", "id")
    expected = "".join(f"u{i} „{i}“\n" for i in sorted(range(12), key=str))
    assert s3fs.S3FileSystem().cat_file(f"{bucket}/exp/text").decode() == expected


@pytest.mark.parametrize("large", [False, True], ids=["one put", "parts"])
def test_a_process_that_collects_to_a_url_dies(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """At each of its requests: the old file stays, or the whole new one is there."""
    import s3fs

    config = parallel("local", n_workers=1, n_shards=2)
    if large:
        runner = Large(Gate({"gate": "none"}))
        run = submit_run(runner, range(8), run_dir=tmp_path / "run", parallel=config)
    else:
        run = submit_noting(tmp_path, 8, config)
    run.wait(timeout=60, interval=0.1)
    expected, output = run.collect(), f"{bucket}/merged.jsonl"
    request = s3fs.core._error_wrapper

    async def counted(*args: Any, **kwargs: Any) -> Any:
        reach()
        return await request(*args, **kwargs)

    monkeypatch.setattr(s3fs.core, "_error_wrapper", counted)
    monkeypatch.setattr(s3fs.S3FileSystem, "default_block_size", 5 << 20)
    fs, before = s3fs.S3FileSystem(use_listings_cache=False), b"what was there before"
    points = 0
    while True:
        fs.pipe_file(output, before)
        process = Process(points + 1)
        with contextlib.suppress(Died, StoreError), process.alive():  # fsspec swallows the first
            run.collect(output)
        written = fs.cat_file(output)
        if not process.dead:
            break
        points += 1
        assert written == before
    assert [json.loads(line)["result"] for line in written.splitlines()] == expected
    assert points >= (4 if large else 1)


# --- a store and a network in trouble -------------------------------------------------------------


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A proxy before a server of this test's own, with the bucket `runs`."""
    monkeypatch.chdir(tmp_path)
    with faulty_s3(monkeypatch, "runs", read_timeout=0.5) as proxy:
        yield proxy
        (tmp_path / GATE).touch()


def _submit(folder: Path, n_items: int, gated: list[int], **keys: Any) -> Run:
    config = parallel("local", preflight=False, checkpoint_every=0.2, **keys)
    provider = Workshop({"folder": str(folder), "gated": gated})
    # Processes are found by the run's directory: it is not an other test process's.
    run_dir = f"s3://runs/run-{os.getpid()}"
    return submit_run(Noting(provider), range(n_items), run_dir=run_dir, parallel=config)


def _done(run: Run) -> Run:
    state = run.wait(timeout=100, interval=0.2)
    assert state.done, state.unfinished()
    return run


@pytest.mark.slow
def test_the_whole_life_of_a_run_through_faults_of_all_kinds(
    proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.schedule = at_random(seed=4, rate=0.2)
    run = _submit(tmp_path, 12, [4, 10], n_workers=2, n_shards=2)
    store = open_store(run.run_dir)
    # Shard 0 waits at item 4 and shard 1 at item 10; all before that is durable.
    wait_for(lambda: noted(tmp_path, "begun") == once([0, 1, 2, 3, 4, 6, 7, 8, 9, 10]), "begun")
    wait_for(lambda: _durable(store) == 8, "a checkpoint is made while an item takes long")
    assert set(states(run).values()) == {"running"}
    kill_all(run)
    assert set(states(run).values()) <= {"lost", "interrupted"}  # as its supervisor saw it
    assert run.resume().ranks == [0, 1]
    wait_for(lambda: noted(tmp_path, "begun")[10] == 2, "the resumed shards wait as well")
    run.cancel()
    wait_for(lambda: not processes_of(run), "the cancelled are gone")
    assert set(states(run).values()) == {"interrupted"}
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1]
    assert _done(run).collect(patience=0) == locally(tmp_path, 12)
    assert noted(tmp_path, "finished") == once(range(12))
    assert proxy.injected.keys() == set(KINDS), "the seed is one that has them all"
    written = run.collect("s3://runs/merged.jsonl", patience=0)
    assert written.records == 12


def _durable(store: Store) -> int:
    files = list(map(layout.parse_result, store.names(layout.RESULTS)))
    return sum(store.read(layout.result(*file)).count(b"\n") for file in files if file)


def _each_first(kinds: tuple[str, ...], method: str, conditional: bool) -> Schedule:
    """Spoil the first of such requests for each object, by turns in these ways."""
    seen: Counter[str] = Counter()

    def decide(request: Request) -> str | None:
        if (request.method, request.conditional) != (method, conditional):
            return None
        path = request.path.partition("?")[0]
        seen[path] += 1
        return kinds[len(seen) % len(kinds)] if seen[path] == 1 else None

    return decide


def test_every_put_succeeds_and_none_hears_of_it(proxy: FaultyProxy, tmp_path: Path) -> None:
    proxy.schedule = _each_first(("lost", "lost 500", "late"), "PUT", True)
    run = _done(_submit(tmp_path, 6, [], n_workers=2, n_shards=3))
    assert run.collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "begun") == once(range(6))
    store = open_store(run.run_dir)
    names = store.names(layout.ATTEMPTS)
    assert len(names) == 3
    assert all(".started." in name for name in names)
    files = [f for folder in (*layout.FOLDERS, layout.CODE) for f in store.names(folder)]
    # The probes of `prepare` too: each file was created by a put whose answer was lost.
    others = [layout.RUN, "the probe of the run's folders", "that of the code's"]
    assert sum(proxy.injected.values()) == len(files) + len(others)


# `test_every_way_to_read_asks_again` has all of them without a run.
@pytest.mark.parametrize("kind", ["cut", *SHORT] if LONG else ["cut", "chunks"])
def test_bodies_that_end_early_are_asked_for_again(
    proxy: FaultyProxy, tmp_path: Path, kind: str
) -> None:
    run = _done(_submit(tmp_path, 6, [], n_workers=1, n_shards=1))
    proxy.schedule = _each_first((kind,), "GET", False)
    assert run.collect(patience=0) == locally(tmp_path, 6)
    assert proxy.injected[kind] >= 3  # run.json, a receipt, results
    proxy.schedule = _each_first((kind,), "GET", False)
    assert [record.item for record in run.stream(patience=0)] == [*range(6)]


@pytest.mark.parametrize("kind", ["cut", *SHORT])
def test_every_way_to_read_asks_again(proxy: FaultyProxy, kind: str) -> None:
    store, data = open_store("s3://runs/read"), bytes(range(256)) * 40_000
    store.create("data", data)
    store.create("empty", b"")

    def through_the_fault(action: Callable[[], Any]) -> Any:
        proxy.injected.clear()
        proxy.schedule = _each_first((kind,), "GET", False)
        result = action()
        assert proxy.injected[kind] >= 1
        return result

    assert through_the_fault(lambda: store.read("data")) == data
    assert through_the_fault(lambda: store.read("empty")) == b""
    assert through_the_fault(lambda: store.read_beginning("data", 1000)) == data[:1000]
    assert through_the_fault(lambda: store.open("data").read()) == data

    def by_range() -> bytes:
        with store.open("data") as file:
            file.seek(100)
            return file.read(5_000_000) + file.read()

    assert through_the_fault(by_range) == data[100:]
    assert sorted(through_the_fault(lambda: store.names(""))) == ["data", "empty"]


@pytest.mark.parametrize("kind", ["closed", "short"] if LONG else ["short"])
def test_a_resume_salvages_through_bodies_that_end_early(
    proxy: FaultyProxy, tmp_path: Path, kind: str
) -> None:
    run = _submit(tmp_path, 6, [4], n_workers=1, n_shards=1)
    store = open_store(run.run_dir)
    wait_for(lambda: _durable(store) == 4, "all before the gate is durable")
    kill_all(run)
    (tmp_path / GATE).touch()
    proxy.schedule = _each_first((kind,), "GET", False)
    assert run.resume().ranks == [0]
    assert _done(run).collect(patience=0) == locally(tmp_path, 6)
    assert noted(tmp_path, "finished") == once(range(6))


def test_a_body_that_always_ends_early_is_an_error_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "retry", RetryPolicy(tries=3, first=0.01))
    with faulty_s3(monkeypatch, "runs", read_timeout=60) as proxy:
        store = open_store("s3://runs/read")
        store.create("data", b"x" * 1000)
        proxy.schedule = lambda request: "short" if request.method == "GET" else None
        with pytest.raises(StoreError, match=r"checksum.*\(tried 3 times\)$"):
            store.read("data")
        assert proxy.injected == {"short": 3}


def test_a_store_that_stays_down_is_an_error_of_one_line(
    proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "retry", RetryPolicy(tries=3, first=0.01))
    proxy.schedule = lambda request: "503" if request.conditional else None
    with pytest.raises(RunDirectoryError, match="the store says SlowDown") as refused:
        _submit(tmp_path, 6, [])
    assert "\n" not in str(refused.value)
    proxy.schedule = lambda request: None
    run = _done(_submit(tmp_path, 6, [], n_workers=1, n_shards=1))
    proxy.injected.clear()
    proxy.schedule = lambda request: "500" if request.method == "GET" else None
    with pytest.raises(StoreError, match=r"InternalError \(tried 3 times\)$"):
        run.collect(patience=0)
    assert proxy.injected == {"500": 3}  # s3fs and botocore do not multiply it
    proxy.schedule = lambda request: "500" if "merged" in request.path else None
    with pytest.raises(StoreError, match=r"s3://runs/merged: "):
        run.collect("s3://runs/merged", patience=0)
    proxy.schedule = lambda request: None
    assert not open_store("s3://runs").exists("merged")


@pytest.mark.slow
def test_a_snapshot_is_fetched_by_each_worker(bucket: str, tmp_path: Path) -> None:
    """A package with an empty file, a link beside it, and a script; then an edit and a resume."""
    project = tmp_path / "project"
    (project / "pack").mkdir(parents=True)
    (project / "pack" / "__init__.py").touch()
    (project / "pack" / "net.py").write_text("from pathlib import Path\nFACTOR = 2\n")
    (project / "data.txt").write_text("7")
    (project / "go.py").write_text(SNAPSHOT_SCRIPT)
    here = {"cwd": project, "capture_output": True, "text": True, "timeout": 200}
    words = [sys.executable, "go.py", f"{bucket}/coded", str(tmp_path)]
    done = subprocess.run(words, **here)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    run = Run(f"{bucket}/coded")
    run.wait(timeout=100, interval=0.3)
    assert states(run) == {0: "done", 1: "failed"}
    store = open_store(f"{bucket}/coded")
    assert store.read("code/0001/0/pack/__init__.py") == b""
    (project / "pack" / "net.py").write_text("raise SystemExit('half an edit')\n")
    (project / "go.py").write_text("raise SystemExit('half an edit')\n")
    (tmp_path / "mended").touch()
    with pytest.raises(CodeChanged, match=r"go\.py, pack/net\.py; .*--code submitted"):
        run.resume()
    run.resume(code="submitted")
    run.wait(timeout=100, interval=0.3)
    assert run.collect() == [[0, "7"], [2, "7"]]


SNAPSHOT_SCRIPT = """
import sys
from pathlib import Path

import pack.net
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel


class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {"mended": Path(self.config["folder"]) / "mended"}


class Runner(BaseRunner):
    @staticmethod
    def forward(idx, mended):
        if idx == 1 and not mended.exists():
            raise ValueError("not yet")
        return [idx * pack.net.FACTOR, (Path(__file__).parent / "data.txt").read_text()]


if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 2, "async_mode": True, "snapshot": True})
    Runner(Provider({"folder": sys.argv[2]}), run_dir=sys.argv[1])(range(2))
"""
