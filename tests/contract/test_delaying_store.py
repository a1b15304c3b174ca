"""A file system that shows the files of other hosts late or empty: the suite, and whole runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.collect.merge import collect
from espnet3.errors import DamagedResult, FileMissing, FileTaken
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.layout import FOLDERS
from espnet3.specs.models import Receipt, decode
from espnet3.status.observation import observe
from espnet3.storage.base import Store
from espnet3.submit.choice import choose_ranks
from espnet3.worker import exit_codes
from espnet3.worker.main import main
from tests.contract.delaying_store import DelayingStore, Server
from tests.contract.store_contract import FolderContract
from tests.support import worker_runs as runs
from tests.support.worker_runs import Setup, Work, submit_again, write_run

DELAY = 20.0
Host = Callable[[str], DelayingStore]


class TestDelayingStore(FolderContract):
    """One host keeps all promises to itself."""

    @pytest.fixture
    def store(self) -> Store:
        store = DelayingStore(self.make_root("run"), Server(DELAY, "late"), "here")
        store.prepare(FOLDERS)
        return store


@pytest.fixture(params=["late", "empty"])
def server(request: pytest.FixtureRequest) -> Server:
    return Server(DELAY, request.param)


@pytest.fixture
def host(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Makes this process a host of that name; returns its view of the run directory."""
    clock = server.clock

    class Event(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            clock.sleep(timeout or 0.0)
            return self.is_set()

    monkeypatch.setattr("espnet3.run_dir.verification.time", clock)
    # The worker's life is here, in the tests' own process: it must not make that one its own.
    monkeypatch.setattr("espnet3.worker.environment.enter_submitter_process", lambda run: None)
    monkeypatch.setattr("espnet3.worker.rebuild.reenter_submitter_process", lambda run: None)
    monkeypatch.setattr("espnet3.worker.main.log_to_stderr", lambda: None)
    monkeypatch.setattr("espnet3.run_dir.verification.threading", SimpleNamespace(Event=Event))

    def become(name: str) -> DelayingStore:
        store = DelayingStore(str(tmp_path / "run"), server, name)
        monkeypatch.setattr("espnet3.run_dir.directory.open_store", lambda url: store)
        return store

    return become


@pytest.fixture
def computed() -> list[Any]:
    """The items for which `forward` was called."""
    runs.calls.clear()
    return runs.calls


def work(store: Store, number: int = 1, task: int = 0) -> int:
    """A worker's whole life, here."""
    return main([store.root, str(number), "--task", str(task)])


ALL = Work(Setup({}))(range(6))


async def test_a_run_whose_every_step_is_on_another_host(
    host: Host, server: Server, computed: list[Any]
) -> None:
    login = host("login")
    run = write_run(login, {}, n_shards=2)
    for task in range(2):
        assert work(host(f"node{task}"), task=task) == exit_codes.DONE
    assert DELAY <= server.clock.now < 2 * DELAY  # the nodes waited for the plan, and no longer
    assert computed == list(range(6))
    # At once, elsewhere: the receipts' names are seen, and what they speak of is waited for.
    host("third")
    assert await collect(login.root, patience=60) == ALL
    assert server.clock.now < 4 * DELAY
    # A resume by one who does not see the receipts yet computes nothing.
    blind = host("blind")
    seen = await observe(RunDirectory(blind), ask_scheduler=False)
    assert choose_ranks(seen.status)[0] in ([], [0, 1])
    submit_again(blind, run, 2)
    assert work(host("node2"), number=2) == exit_codes.DONE
    assert computed == list(range(6))


async def test_a_resume_takes_over_what_another_host_finished_a_moment_ago(
    host: Host, server: Server, computed: list[Any]
) -> None:
    login = host("login")
    run = write_run(login, {"at": 3, "do": "raise", "trouble": "ValueError"})
    assert work(host("node0")) == exit_codes.FAILED
    assert computed == [0, 1, 2, 3]
    submit_again(login, run, 2)
    computed.clear()
    # The second node sees the submission late, so what the first one wrote is older by then.
    assert work(host("node1"), number=2) == exit_codes.FAILED
    assert computed == [3]


def test_a_worker_gives_up_at_last(
    host: Host, server: Server, computed: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(host("login"), {})
    server.delay = 3600.0
    server.symptom = "late"
    node = host("node0")
    assert work(node) == exit_codes.USAGE
    assert server.clock.now <= node.patience
    assert f"{node.root}/run.json: no such file" in capsys.readouterr().err
    assert computed == []


async def test_damage_is_believed_after_patience_and_not_before(
    host: Host, server: Server, tmp_path: Path
) -> None:
    login = host("login")
    write_run(login, {})
    assert work(host("node0")) == exit_codes.DONE
    server.clock.sleep(DELAY)
    receipt = decode(Receipt, login.read(layout.receipt(0)), "receipt")
    results = tmp_path / "run" / layout.RESULTS / receipt.parts[0].file
    results.write_bytes(results.read_bytes()[:-5])
    began = server.clock.now
    host("third")
    with pytest.raises(DamagedResult, match="bytes, but the receipt vouches for"):
        await collect(login.root, patience=30)
    assert 20 < server.clock.now - began <= 30


def test_a_plan_that_another_host_began_is_known_again(host: Host, server: Server) -> None:
    files = [(layout.shard_name(rank), b"%d" % rank) for rank in range(5)]
    one, other = host("one"), host("other")
    one.prepare(FOLDERS)
    one.create_many(layout.SHARDS, files)
    other.create_many(layout.SHARDS, files)
    assert server.clock.now < 2 * DELAY
    with pytest.raises(FileTaken):
        host("third").create_many(layout.SHARDS, [(layout.shard_name(3), b"other")])


def test_a_submission_that_overtook_is_waited_for(host: Host, server: Server) -> None:
    one, other = host("one"), host("other")
    one.prepare(FOLDERS)
    one.create(layout.submission(1), b"{}")
    with pytest.raises(FileTaken):
        other.create(layout.submission(1), b"{}")
    other.await_listed(layout.submission(1))
    assert other.await_file(layout.submission(1)) == b"{}"
    assert server.clock.now < 2 * DELAY
    with pytest.raises(FileMissing):
        other.await_listed(layout.submission(2))
    assert server.clock.now > other.patience - 10
