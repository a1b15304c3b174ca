"""Runners that write their results, in ways that a test can foretell, stop and count."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner
from espnet3.run_dir.verification import verify_written
from espnet3.specs import layout
from espnet3.specs.models import Receipt, RunSpec
from espnet3.storage.base import Store
from tests.support.worker_runs import DEEDS, receipt_of, write_run

calls: list[int] = []
"""The items for which `forward` was called in this process."""
# Not the list: workers in this process would set it to what it was at the submission.
_note = calls.append
in_writing: list[Callable[[str], None]] = []
"""What happens before each operation on a writer's files, whose path it gets."""
created: list[Callable[[str], None]] = []
"""What happens after a writer has made a file."""


class Value:
    """A result that JSON cannot hold."""

    def __init__(self, number: int) -> None:
        self.number = number


class Lines:
    """Writes lines to a file; most of them only when it is flushed or closed."""

    def __init__(self, path: Path, most: int = 3) -> None:
        self.path, self.most = path, most
        self.waiting: list[str] = []
        self._append("")

    def write(self, line: str) -> None:
        self.waiting.append(line)
        if len(self.waiting) > self.most:
            self.flush()

    def flush(self) -> None:
        text, self.waiting = "".join(self.waiting), []
        self._append(text)

    def close(self) -> None:
        self.flush()

    def _append(self, text: str) -> None:
        for action in in_writing:
            action(str(self.path))
        is_new = not self.path.exists()
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)
        for action in created if is_new else ():
            action(str(self.path))


class Unflushed:
    """Writes lines to a file, most of them only when it is closed."""

    def __init__(self, path: Path) -> None:
        self._lines = Lines(path)
        self.write, self.close = self._lines.write, self._lines.close


class Opaque(BaseRunner):
    """Writes a line for each item, and of even ones an array in a file of its own.

    The provider's `config` is the environment; at the item `at` what its `do` says is done. An item
    takes `pace` seconds, and is noted in the file `notes`. With `unflushed` one writer has no
    `flush`.
    """

    @staticmethod
    def forward(idx: Any, *, config: dict[str, Any], shard_id: int) -> Any:
        _note(idx)
        if "notes" in config:
            with open(config["notes"], "a", encoding="ascii") as file:
                file.write(f"{idx}\n")
        time.sleep(config.get("pace", 0.0))
        if idx == config.get("at"):
            DEEDS[config["do"]](idx, config)
        return Value(idx), Path("audio", f"{shard_id}", str(idx))

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        _do(env["config"], "open_writers")
        text = (Unflushed if env["config"].get("unflushed") else Lines)(shard_dir / "hyp.scp")
        return {"text": text, "more": [Lines(shard_dir / "paths.scp")]}

    @staticmethod
    def write_record(writers: Any, result: Any, state: Any, **env: Any) -> None:
        value, path = result
        _do(env["config"], f"write_record {value.number}")
        writers["text"].write(f"utt{value.number} {value.number**2}\n")
        writers["more"][0].write(f"utt{value.number} {path}\n")
        if value.number % 2 == 0:
            file = Path(state["shard_dir"], "arrays", f"{value.number}.bin")
            for action in in_writing:
                action(str(file))
            is_new = not file.parent.exists()
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(bytes(range(value.number % 256)))
            for action in created:
                _ = action(str(file.parent)) if is_new else None
                action(str(file))

    @staticmethod
    def close_writers(writers: Any, state: Any = None, **env: Any) -> None:
        _do(env["config"], "close_writers")
        writers["text"].close()
        writers["more"][0].close()


class Appending(Opaque):
    """Whose files only grow."""

    append_only = True


def _do(config: dict[str, Any], where: str) -> None:
    """In a hook that the config names, do what it says."""
    if config.get("in") == where:
        DEEDS[config["do"]](0, config)


def write_writing_run(
    store: Store,
    config: dict[str, Any],
    items: Any = range(6),
    *,
    runner: type[BaseRunner] = Opaque,
    **parallel: Any,
) -> RunSpec:
    """Write a run of a runner that writes, with one submission, and start nothing."""
    return write_run(store, config, items, runner=runner, output_dir="output", **parallel)


def expected_files(items: Sequence[int], rank: int) -> dict[str, bytes]:
    """What `Opaque` leaves of a shard's items: path -> contents."""
    found = {
        "hyp.scp": "".join(f"utt{i} {i * i}\n" for i in items).encode(),
        "paths.scp": "".join(f"utt{i} audio/{rank}/{i}\n" for i in items).encode(),
        "done": b"",
    }
    even = {f"arrays/{i}.bin": bytes(range(i % 256)) for i in items if i % 2 == 0}
    return dict(sorted({**found, **even}.items()))


def written_files(store: Store, receipt: Receipt) -> dict[str, bytes]:
    """What a receipt says that writers have written, verified: path -> contents."""
    assert receipt.written is not None
    verify_written(store, receipt)
    folder = layout.written(receipt.rank, receipt.attempt)
    assert os.path.basename(receipt.written.folder) == os.path.basename(folder)
    return {file.path: store.read(f"{folder}/{file.path}") for file in receipt.written.files}


def require_written(store: Store, run: RunSpec) -> None:
    """Each shard has one receipt, whose files are those of a run that nothing has happened to."""
    assert len(store.names(layout.RECEIPTS)) == run.world_size
    for rank in range(run.world_size):
        items = range(*run.bounds_of(rank))
        assert written_files(store, receipt_of(store, rank)) == expected_files(items, rank)
