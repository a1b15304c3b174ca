"""Runners that write, and of which something odd is asked. Workers import them: they stay light."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from espnet3.parallel import BaseRunner
from tests.support.runners import MENDED, note
from tests.support.writing_runners import Appending, Statistics, compute


class Leaving(Statistics):
    """Changes the working directory, and makes what it needs wherever it is then."""

    @classmethod
    def reduce_state(cls, state: dict[str, Any], result: Any, **env: Any) -> dict[str, Any]:
        os.chdir(env["folder"])
        Path(state["shard_dir"]).mkdir(parents=True, exist_ok=True)
        return super().reduce_state(state, result, **env)


class Paths(Appending):
    """Writes paths that lie beside its text."""

    @staticmethod
    def open_writers(shard_dir: Path, **env: Any) -> dict[str, Any]:
        return {"folder": shard_dir, **Appending.open_writers(shard_dir)["nested"]}

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        writers["text"].write(f"{writers['folder']}/{result}.npy\n")

    @staticmethod
    def close_writers(writers: dict[str, Any], *args: Any, **env: Any) -> None:
        writers["text"].close()

    def merge(self, shard_dirs: list[Path]) -> Any:
        return super().merge(shard_dirs).splitlines()


class Telling(BaseRunner):
    """Its merge does what the runner was told."""

    def __init__(self, provider: Any, *, deed: str, sizes: Any = (1, 2), **more: Any) -> None:
        super().__init__(provider, **more)
        self.deed, self.sizes = deed, sizes

    @staticmethod
    def forward(idx: int, **env: Any) -> Any:
        compute(idx, env)
        return idx

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        Path(state["shard_dir"], str(result)).touch()

    def merge(self, shard_dirs: list[Path]) -> Any:
        print("merging", len(shard_dirs), flush=True)
        if self.deed == "wait":
            note(self.provider.config["folder"], "merging", os.getpid())
            signal.pause()
        if self.deed == "raise":
            raise ValueError("the tables\ndo not match")
        if self.deed == "exit":
            sys.exit(3)
        if self.deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "lambda":
            return lambda: None
        held = (self.sizes, self.output_dir, self.shard_subdir, self.batch_size, os.getcwd())
        return held, sorted(shard_dirs), type(self.provider)


class Open(Telling):
    """Makes folders and files that everyone may write."""

    @staticmethod
    def write_record(
        writers: dict[str, Any], result: Any, state: dict[str, Any], **env: Any
    ) -> None:
        before = os.umask(0)
        folder = Path(state["shard_dir"], "open")
        folder.mkdir(exist_ok=True)
        Path(folder, str(result)).touch()
        (folder / "corpus").unlink(missing_ok=True)
        (folder / "corpus").symlink_to(Path(env["folder"], "corpus"))
        os.umask(before)


class Doubting(Statistics):
    """Believes its folders once all is mended."""

    @classmethod
    def is_shard_done(cls, shard_dir: str | os.PathLike[str]) -> bool:
        return Path(shard_dir).parents[1].joinpath(MENDED).exists()
