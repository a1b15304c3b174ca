"""fsspec's memory, which stands for the object stores where a test needs no server."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import fsspec
import pytest

from espnet3.errors import RunDirectoryError
from espnet3.storage.opening import open_store
from tests.contract.store_contract import StoreContract, numbered_roots

_roots = numbered_roots("memory://contract")
REPOSITORY = Path(__file__).parents[2]


class TestMemoryStore(StoreContract):
    def make_root(self, name: str) -> str:
        return f"{next(_roots)}/{name}"

    def raw_names(self, root: str, folder: str) -> set[str]:
        path = f"{root}/{folder}".removeprefix("memory:/").rstrip("/")
        found = fsspec.filesystem("memory").ls(path, detail=True)
        return {entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file"}

    def test_an_open_file_takes_constant_memory(self) -> None:
        store = open_store(self.make_root("run"))
        store.create("results/r.jsonl", b"x" * 64 * 2**20)
        with store.open("results/r.jsonl") as file:
            tracemalloc.start()
            try:
                while file.read(100_000):
                    pass
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        assert peak < 24 * 2**20


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host/run", "no atomic create"),
        ("ftp://host/run", "no atomic create"),
        ("simplecache::s3://bucket/run", "no atomic create"),
        ("s3://", "names no bucket"),
        ("memory://", "names no bucket"),
    ],
)
def test_other_file_systems_are_refused(url: str, words: str) -> None:
    with pytest.raises(RunDirectoryError, match=words) as caught:
        open_store(url)
    assert caught.value.run_dir == url
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "url", "extra"), [("s3fs", "s3://bucket/run", "s3"), ("gcsfs", "gs://b/run", "gcs")]
)
def test_what_is_not_installed_is_named(module: str, url: str, extra: str) -> None:
    # In a process of its own, because fsspec remembers what was imported.
    code = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "from espnet3.errors import RunDirectoryError\n"
        "from espnet3.storage.opening import open_store\n"
        f"try: open_store({url!r})\n"
        "except RunDirectoryError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(f"pip install 'espnet3[{extra}]'")
