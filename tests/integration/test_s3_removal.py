"""Runs on S3 are listed and removed: a real server over HTTP, real processes."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from espnet3.errors import RunDirectoryError
from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.storage.object import ObjectStore
from espnet3.storage.opening import open_store
from tests.support.commands import said
from tests.support.helpers import ended, noted, parallel, processes_of, wait_for
from tests.support.runners import GATE, Noting, Workshop

pytestmark = pytest.mark.s3


def submit(folder: Path, run_dir: str, n_items: int = 4, **keys: Any) -> Run:
    gated = keys.pop("gated", [])
    provider = Workshop({"folder": str(folder), "gated": gated})
    config = parallel("local", n_workers=2, n_shards=2, **keys)
    return submit_run(Noting(provider), range(n_items), run_dir=run_dir, parallel=config)


SMALL = """
from espnet3.parallel import BaseRunner, EnvironmentProvider

class Nothing(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Same(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx
"""


def submit_snapshot(monkeypatch: pytest.MonkeyPatch, folder: Path, run_dir: str) -> Run:
    """Submit with the code, which is small: `Noting` has all of tests/support beside it."""
    (folder / "code").mkdir()
    (folder / "code/small_on_s3.py").write_text(SMALL)
    monkeypatch.syspath_prepend(str(folder / "code"))
    small: Any = importlib.import_module("small_on_s3")
    config = parallel("local", n_workers=2, n_shards=2, snapshot=True)
    return submit_run(small.Same(small.Nothing({})), range(4), run_dir=run_dir, parallel=config)


def store_of(run: Run) -> ObjectStore:
    store = open_store(run.run_dir)
    assert isinstance(store, ObjectStore)
    return store


def test_list_and_remove(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = f"{bucket}/{tmp_path.name} removal"
    run = ended(submit_snapshot(monkeypatch, tmp_path, f"{place}/decode"))
    beside = ended(submit(tmp_path, f"{place}/decode2"))
    for each in (run, beside):
        wait_for(lambda each=each: not processes_of(each), "a process lives on")  # type: ignore[misc]
    document = json.loads(said("list", "--json", place).out)
    found = {entry["run_dir"]: entry for entry in document["runs"]}
    assert found.keys() == {run.run_dir, beside.run_dir}
    seen = found[run.run_dir]
    assert (seen["state"], seen["items_done"], seen["n_items"]) == ("done", 4, 4)
    store = store_of(run)
    assert seen["size"] == sum(size for _, size in store.sizes()) > 1000
    assert store.names(layout.CODE)
    store.create("mine/notes.txt", b"mine")
    with pytest.raises(RunDirectoryError, match="not the run's: mine; move it away"):
        run.remove()
    store.delete("mine/notes.txt")
    n_files = len(store.walk())
    assert run.remove().files == n_files
    assert store.walk() == []
    assert len(beside.collect()) == 4
    beside.remove()
    assert said("list", place) == (0, "", f"no run in {place}\n")


def test_half_removed(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is interrupted in the midst of it."""
    monkeypatch.chdir(tmp_path)
    run = ended(submit(tmp_path, f"{bucket}/{tmp_path.name} half/decode"))
    wait_for(lambda: not processes_of(run), "a process lives on")
    n_files = len(store_of(run).walk())
    real, left = ObjectStore.delete, 5

    def delete(self: ObjectStore, path: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "delete", delete)
        with pytest.raises(KeyboardInterrupt):
            run.remove()
    assert 0 < len(store_of(run).walk()) < n_files
    assert not store_of(run).exists(layout.RUN)
    [row] = said("list", run.run_dir).out.splitlines()
    assert row.startswith("half removed\t")
    with pytest.raises(RunDirectoryError, match="removed half"):
        run.resume()
    with pytest.raises(RunDirectoryError, match="removed, or was half"):
        submit(tmp_path, run.run_dir)
    run.remove()
    assert store_of(run).walk() == []


def test_orphans_end(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    where = f"{bucket}/{tmp_path.name} orphans/decode"
    run = submit(tmp_path, where, 2, gated=[0, 1], heartbeat=0.5)
    try:
        wait_for(lambda: len(noted(tmp_path, "begun")) == 2, "nothing is begun")
        with pytest.raises(RunDirectoryError, match="is alive: 2 shards running"):
            run.remove()
        for path in store_of(run).walk():
            store_of(run).delete(path)
        wait_for(lambda: not processes_of(run), "its processes do not end")
        assert store_of(run).walk() == []
    finally:
        (tmp_path / GATE).touch()
