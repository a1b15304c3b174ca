"""Result files that change while they are collected."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from espnet3.collect import merge
from espnet3.collect.merge import collect
from espnet3.specs.errors import DamagedResult
from espnet3.specs.local_reader import LocalReader
from espnet3.specs.local_store import LocalStore
from espnet3.specs.verify import IN_MEMORY
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
    monkeypatch.setattr(merge, "open_store", lambda url: store)
    with pytest.raises(DamagedResult, match=r"lost \d+ bytes while it was read"):
        await collect(store.root, tmp_path / "out")
    assert os.listdir(tmp_path) == ["run"]
