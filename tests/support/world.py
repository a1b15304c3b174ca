"""A small run whose processes can die anywhere, and what must be true of it at any time.

Submitter, workers and collectors are `Process`es of `tests.support.mortal` within this real
process; the batch system is the stand-in. Between two of them `World.look` compares all files with
what they were before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.run import Run, submit_run
from espnet3.schedulers.base import TaskState
from espnet3.specs import layout
from espnet3.specs.items import shard_bounds
from espnet3.storage.opening import open_store
from espnet3.submit import submitter
from espnet3.worker import result_writer as results_module
from espnet3.worker.main import main as worker
from espnet3.worker.result_writer import ResultWriter
from tests.support import mortal, stand_in_cluster
from tests.support.mortal import Process
from tests.support.stand_in_cluster import Task

N_ITEMS, N_SHARDS = 20, 4
PARALLEL: dict[str, Any] = {
    "env": stand_in_cluster.NAME,
    "n_workers": N_SHARDS,
    "n_shards": N_SHARDS,
    "max_array_size": 2,
    "preflight": False,
    "checkpoint_every": 3600,
}
calls: list[int] = []
"""The items for which `forward` was called, by anybody."""
# Not the list: workers in this process would set it to what it was at the submission.
_note = calls.append
in_forward: list[Callable[[int], None]] = []
"""What else happens in `forward`."""


class Nothing(EnvironmentProvider):
    def build_env_local(self) -> dict[str, Any]:
        return {}


class Counted(BaseRunner):
    """Squares, and notes each call."""

    @staticmethod
    def forward(idx: int) -> Any:
        _note(idx)
        for action in in_forward:
            action(idx)
        return {"square": idx * idx, "text": f"„{idx}“\n"}


def expected() -> list[Any]:
    """What local mode gives."""
    found = Counted(Nothing({}))(range(N_ITEMS))
    calls.clear()
    assert isinstance(found, list)
    return found


Snapshot = dict[str, bytes]
_MOST = 1 << 16  # bytes of a file that are read at once


class Saved:
    """A world as it was; the run directory's path stays the same."""

    def __init__(self, files: Any, tasks: list[Task], ids: dict[str, str]) -> None:
        self.files, self.tasks, self.ids = files, tasks, ids


class World:
    """One run, its storage and its batch system.

    Attributes:
        disk: what of the run is synced; for local storage.
        damaged: result files of which nothing is believed any more.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, *, objects: bool = False, **keys: Any
    ) -> None:
        self.folder, self.objects = folder, objects
        self.run_dir = f"memory://{folder.name}/run" if objects else str(folder / "run")
        self.parallel = {**PARALLEL, **keys}
        self.cluster = stand_in_cluster.install(monkeypatch)
        self.disk = mortal.install(monkeypatch)
        if objects:
            mortal.install_below_objects(monkeypatch)
        monkeypatch.setattr(submitter, "_git_commit", lambda: None)  # saves a process each time
        monkeypatch.chdir(folder)
        _checkpoint_at_every_second_item(monkeypatch)
        self.expected: Any = expected()
        self.seen: Snapshot = {}
        self.damaged: set[str] = set()

    # --- what processes do ------------------------------------------------------------------------

    def submit(self) -> Run:
        """The first call; again, it continues the run."""
        runner = Counted(Nothing({}))
        return submit_run(runner, range(N_ITEMS), run_dir=self.run_dir, parallel=self.parallel)

    def resume(self, **keys: Any) -> None:
        """What a user does after a crash: `resume`, or the same call where there is no run yet."""
        if open_store(self.run_dir).exists(layout.RUN):
            Run(self.run_dir).resume(**keys)
        else:
            self.submit()

    def work(self, task: Task) -> int:
        """One task of the batch system, as it would call the worker."""
        with worker_surroundings():
            return worker(task.words, task.environ())

    def collect(self) -> Any:
        """The answer."""
        return Run(self.run_dir).collect(patience=0)

    def collect_file(self) -> Any:
        """The answer, through a file."""
        output = self.folder / "out.jsonl"
        Run(self.run_dir).collect(str(output), patience=0)
        return [json.loads(line)["result"] for line in output.read_text().splitlines()]

    # --- and whether they survive it --------------------------------------------------------------

    def run(self, action: Callable[[], Any], process: Process | None = None) -> Any:
        """Let a process do something; Died is raised if it dies of it. Then look."""
        process = process or Process()
        durable, before = self.durable(), len(calls)
        try:
            with process.alive():
                return action()
        finally:
            again = [item for item in calls[before:] if item in durable]
            assert not again, f"durable items {again} were computed again"
            self.look()

    def run_task(self, task: Task, process: Process | None = None) -> None:
        """Let the batch system run a task; whether it dies or not, it has ended then."""
        task.state = TaskState("running", "RUNNING")
        try:
            self.run(lambda: self.work(task), process)
        finally:
            task.state = TaskState("ended", "FAILED")

    def run_queued(self) -> None:
        """Let all queued tasks run, one after the other."""
        while queued := self.cluster.queued():
            self.run_task(queued[0])

    def finish(self, again: Callable[[], Any] | None = None) -> None:
        """Resume, wait, collect: whatever happened, the answer is that of local mode."""
        self.run(again or self.resume)
        self.run_queued()
        assert self.run(self.collect) == self.expected

    def cut_power(self, *, names: bool) -> None:
        """All processes die, and what nobody synced is lost; hints may be."""
        self.disk.cut_power(Path(self.run_dir), names=names)
        self.seen = self.files()

    def overwrite(self, name: str, data: bytes) -> None:
        """Damage a result file."""
        if self.objects:
            _memory()[f"{self.run_dir.removeprefix('memory:/')}/{name}"].seek(0)
            _memory()[f"{self.run_dir.removeprefix('memory:/')}/{name}"].write(data)
        else:
            Path(self.run_dir, name).write_bytes(data)
        self.damaged.add(name)
        self.seen = self.files()

    # --- what must always be true -----------------------------------------------------------------

    def look(self, growing: tuple[str, ...] = ()) -> None:
        """Nothing that was published is ever edited or removed; `growing` files may get longer."""
        now = self.files()
        for name, data in self.seen.items():
            assert name in now, f"{name} is gone"
            same = now[name] == data
            grown = name in growing and now[name].startswith(data)
            assert same or grown, f"{name} was edited"
        self.seen = now

    def files(self) -> Snapshot:
        """All published files; none that a crash left unfinished, nor logs and what is replaced."""
        others = (layout.LOGS, layout.WORKERS, layout.REMAINING)
        return {
            name: data
            for name, data in self._all_files().items()
            if not _is_unfinished(name) and not name.startswith(others)
        }

    def unfinished(self) -> list[str]:
        """The temporary files that crashes left."""
        return [name for name in self._all_files() if _is_unfinished(name)]

    def _all_files(self) -> Snapshot:
        if self.objects:
            base = self.run_dir.removeprefix("memory:/") + "/"
            objects = _memory().items()
            return {p.removeprefix(base): f.getvalue() for p, f in objects if p.startswith(base)}
        found: Snapshot = {}
        if os.path.isdir(self.run_dir):
            _read_below(self.run_dir, "", found)
        return found

    def durable(self) -> set[int]:
        """The items whose results were there at the last look, read without espnet3's salvage.

        Recorded errors are no results.
        """
        found = set()
        for name, data in self.seen.items():
            file = layout.parse_result(name.removeprefix(f"{layout.RESULTS}/"))
            if file is None or name in self.damaged:
                continue
            first = shard_bounds(file.rank, self.parallel["n_shards"], N_ITEMS)[0] + file.first
            for position, line in enumerate(data.split(b"\n")[:-1], first):
                record = json.loads(line)
                assert record["item"] == position
                if "error" not in record:
                    found.add(position)
        return found

    # --- the same again ---------------------------------------------------------------------------

    def save(self) -> Saved:
        """The state of everything."""
        if self.objects:
            files: Any = {path: file.getvalue() for path, file in _memory().items()}
        else:
            files = self._all_files() if os.path.exists(self.run_dir) else None
        return Saved(files, [Task(**vars(t)) for t in self.cluster.tasks], dict(self.cluster.ids))

    def restore(self, saved: Saved) -> None:
        """Go back to a state."""
        if self.objects:
            _restore_memory(saved.files)
        else:
            if saved.files is None:
                shutil.rmtree(self.run_dir, ignore_errors=True)
            there = self._all_files()
            for name in there.keys() - (saved.files or {}).keys():
                os.unlink(os.path.join(self.run_dir, name))
            for name, data in (saved.files or {}).items():
                if there.get(name) != data:
                    os.makedirs(os.path.dirname(os.path.join(self.run_dir, name)), exist_ok=True)
                    Path(self.run_dir, name).write_bytes(data)
            self.disk.forget()
        self.cluster.tasks = [Task(**vars(task)) for task in saved.tasks]
        self.cluster.ids = dict(saved.ids)
        self.seen = self.files()

    def end(self) -> None:
        """Leave nothing to the next world in this process."""
        calls.clear()
        if self.objects:
            _restore_memory({})


def require_answer(world: World) -> None:
    """All shards have receipts whose parts follow each other, and what they say is right."""
    receipts = [data for name, data in world.seen.items() if name.startswith(layout.RECEIPTS)]
    assert len(receipts) == world.parallel["n_shards"]
    for receipt in map(json.loads, receipts):
        position = 0
        for part in receipt["parts"]:
            assert part["first"] == position
            position += part["records"]
        assert position == receipt["records"] == N_ITEMS // len(receipts)
    assert world.run(world.collect) == world.expected


def _read_below(folder: str, prefix: str, found: Snapshot) -> None:
    """Read all files of a folder; two thirds of the time, since it is done at every operation."""
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir():
                _read_below(entry.path, f"{name}/", found)
                continue
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                found[name] = data = os.read(descriptor, _MOST)
                while len(data) == _MOST:
                    found[name] += (data := os.read(descriptor, _MOST))
            finally:
                os.close(descriptor)


def _is_unfinished(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


@contextlib.contextmanager
def worker_surroundings() -> Iterator[None]:
    """What a worker changes of its process is put back."""
    environ, path, folder = dict(os.environ), sys.path[:], os.getcwd()
    logger = logging.getLogger("espnet3")
    before = logger.handlers[:], logger.level, logger.propagate
    wakeup = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environ)
        sys.path[:] = path
        logger.handlers[:], logger.level, logger.propagate = before


def _checkpoint_at_every_second_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer's clock and thread do at some time is done at certain moments."""
    add = ResultWriter.add

    def add_and_checkpoint(self: ResultWriter, line: bytes) -> None:
        add(self, line)
        if self.added % 2 == 0:
            self.checkpoint()

    monkeypatch.setattr(ResultWriter, "add", add_and_checkpoint)
    monkeypatch.setattr(results_module, "WRITE_EVERY", -1.0)


def _memory() -> dict[str, Any]:
    from fsspec.implementations.memory import MemoryFileSystem

    store: dict[str, Any] = MemoryFileSystem.store
    return store


def _restore_memory(files: Snapshot) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    for path, data in files.items():
        MemoryFileSystem().pipe_file(path, data)
