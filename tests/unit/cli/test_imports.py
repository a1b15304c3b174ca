"""The command starts at once: nothing heavy is loaded before it is needed."""

import subprocess
import sys

import pytest

HEAVY = {"dask", "distributed", "dask_jobqueue", "fsspec", "pydantic", "omegaconf", "rich", "yaml"}
PROGRAM = """
import sys
import espnet3
words = sys.argv[1:]
if words:
    from espnet3.cli import run
    assert run(words) == 0
print(*(name for name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--version"], ["submit", "--help"], ["status", "-h"]]
)
def test_nothing_heavy_is_loaded(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True
    )
    assert bool(done.stdout) is bool(words)
    assert not HEAVY & set(done.stderr.split())
