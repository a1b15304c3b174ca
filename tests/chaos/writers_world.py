"""A small run whose runner writes its results, and whose processes can die anywhere."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.specs.models import Receipt, decode
from espnet3.storage.opening import open_store
from espnet3.worker import computing
from espnet3.worker import written as written_module
from tests.support import world as world_module
from tests.support.mortal import reach
from tests.support.worker_runs import Setup
from tests.support.world import N_ITEMS, World
from tests.support.writing_worker_runs import (
    Opaque,
    created,
    expected_files,
    in_writing,
    written_files,
)

EVERY = 3600.0  # seconds between checkpoints, of a clock that shows half of that later each time


class Mortal(Opaque):
    """Notes each call where the world looks, and may die there and wherever it writes."""

    @staticmethod
    def forward(idx: Any, *, config: dict[str, Any], shard_id: int) -> Any:
        world_module._note(idx)
        for action in world_module.in_forward:
            action(idx)
        return Opaque.forward(idx, config=config, shard_id=shard_id)


class MortalAppending(Mortal):
    """Whose files only grow."""

    append_only = True


class WritersWorld(World):
    """One run of such a runner; a checkpoint of its files is made after every second item."""

    def __init__(
        self, folder: Any, monkeypatch: pytest.MonkeyPatch, runner: type[Mortal], **keys: Any
    ) -> None:
        super().__init__(folder, monkeypatch, **keys)
        self.runner = runner
        per_shard = N_ITEMS // self.parallel["n_shards"]
        self.expected = {
            rank: expected_files(range(rank * per_shard, (rank + 1) * per_shard), rank)
            for rank in range(self.parallel["n_shards"])
        }
        clock = map(float, itertools.count(0, int(EVERY) // 2))
        time = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda seconds: None)
        monkeypatch.setattr(written_module, "time", time)
        monkeypatch.setattr(computing, "SIGNAL_GRACE", 0.0)
        in_writing[:] = [lambda path: reach()]
        created[:] = [self._created]

    def _created(self, path: str) -> None:
        if not self.objects:
            self.disk.created(path)

    def submit(self) -> Run:
        runner = self.runner(Setup({}), output_dir=self.folder / "output")
        return submit_run(runner, range(N_ITEMS), run_dir=self.run_dir, parallel=self.parallel)

    def look(self, growing: tuple[str, ...] = ()) -> None:
        """As the world does; what an attempt that no receipt names has written may grow."""
        named = {f"{r.rank:06d}.{r.attempt}" for r in self.receipts().values()}
        written = (name for name in self.seen if name.startswith(f"{layout.WRITTEN}/"))
        more = (name for name in written if name.split("/")[1] not in named)
        super().look((*growing, *more))

    def receipts(self) -> dict[int, Receipt]:
        """The receipts of the run, by rank."""
        names = [name for name in self.seen if name.startswith(f"{layout.RECEIPTS}/")]
        found = [decode(Receipt, self.seen[name], name) for name in names]
        assert len({receipt.rank for receipt in found}) == len(names)
        return {receipt.rank: receipt for receipt in found}

    def collect(self) -> dict[int, dict[str, bytes]]:
        """What the receipts say that writers have written, verified."""
        self.look()
        store = open_store(self.run_dir)
        return {
            rank: written_files(store, receipt) for rank, receipt in sorted(self.receipts().items())
        }

    def durable(self) -> set[int]:
        """The items that nobody needs to compute again, read without espnet3's salvage."""
        per_shard = N_ITEMS // self.parallel["n_shards"]
        done = self.receipts()
        found = {rank * per_shard + i for rank in done for i in range(per_shard)}
        if self.objects or not self.runner.append_only:
            return found
        for name, data in self.seen.items():
            file = layout.parse_result(name.removeprefix(f"{layout.RESULTS}/"))
            if file is None:
                continue
            assert file.first == 0
            lines = [json.loads(line) for line in data.split(b"\n")[:-1]]
            known = [i for i, line in enumerate(lines, 1) if line["result"] is not None]
            found |= {file.rank * per_shard + i for i in range(max(known, default=0))}
        return found

    def unnamed_folders(self) -> set[str]:
        """Attempts that have written something that no receipt names."""
        prefix = f"{layout.WRITTEN}/"
        there = {name.split("/")[1] for name in self.seen if name.startswith(prefix)}
        named = {f"{r.rank:06d}.{r.attempt}" for r in self.receipts().values()}
        assert named <= there
        return there - named

    def end(self) -> None:
        """As the world does; nothing happens any more where writers write."""
        super().end()
        in_writing.clear()
        created.clear()
