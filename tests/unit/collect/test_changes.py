"""Result files that change while they are collected."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from espnet3.collect.merge import collect
from espnet3.errors import DamagedResult
from espnet3.run_dir.verification import IN_MEMORY
from espnet3.storage.local import LocalStore
from espnet3.storage.local_reader import LocalReader
from tests.unit.collect import test_costs


class ShrinkingStore(LocalStore):
    """A file system that loses the end of a file between two readings of it."""

    def open(self, path: str) -> BinaryIO:
        file = self.locate(path)

        class Stream(io.BufferedReader):
            def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
                os.truncate(file, IN_MEMORY)
                return super().seek(offset, whence)

        return Stream(LocalReader(file, lambda action: action()))


async def test_a_part_that_shrinks_after_it_was_verified_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ShrinkingStore(str(tmp_path / "run"))
    monkeypatch.setattr(test_costs, "SHARDS", 1)
    monkeypatch.setattr(test_costs, "PARTS", 1)
    test_costs.finish(store, 1, "x" * (IN_MEMORY + 1000))
    monkeypatch.setattr("espnet3.run_dir.directory.open_store", lambda url: store)
    with pytest.raises(DamagedResult, match=r"has 8388608 bytes, but the receipt vouches for"):
        await collect(store.root, tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]


class OverwrittenStore(LocalStore):
    """A file system that shows other bytes of a file at the second reading."""

    def open(self, path: str) -> BinaryIO:
        file = self.locate(path)

        class Stream(io.BufferedReader):
            def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
                with open(file, "r+b") as result:
                    result.seek(IN_MEMORY)
                    result.write(b"y")
                return super().seek(offset, whence)

        return Stream(LocalReader(file, lambda action: action()))


async def test_a_part_that_is_overwritten_after_it_was_verified_is_not_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = OverwrittenStore(str(tmp_path / "run"))
    monkeypatch.setattr(test_costs, "SHARDS", 1)
    monkeypatch.setattr(test_costs, "PARTS", 1)
    test_costs.finish(store, 1, "x" * (IN_MEMORY + 1000))
    monkeypatch.setattr("espnet3.run_dir.directory.open_store", lambda url: store)
    with pytest.raises(DamagedResult, match="has changed since its receipt was written"):
        await collect(store.root, tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]
