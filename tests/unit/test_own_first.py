"""The path of a package goes on where its own folder ends, and costs nothing before."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import espnet3
from espnet3._lazy import OwnFirst

# An import that is looked for in a folder leaves it in that cache.
LOOK = """
import sys
sys.path.append(sys.argv[1])
import espnet3.errors, espnet3.worker, espnet3.parallel, espnet3.worker.exit_codes
print(sys.argv[1] in sys.path_importer_cache)
"""


def test_imports_of_ours_look_nowhere_else(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_other_folders_come_after_the_own_one_as_the_path_is_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = espnet3.__path__[0]
    assert own == next(iter(espnet3.__path__))
    theirs = tmp_path / "espnet3"
    (theirs / "cli").mkdir(parents=True)
    (theirs / "__init__.py").touch()
    (theirs / "only_here.py").write_text("FOUND = True")
    assert str(theirs) not in list(espnet3.__path__)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(espnet3.__path__)[:2] == [own, str(theirs)]
    assert list(OwnFirst("espnet3.cli", ["x"])) == ["x", f"{own}/cli", f"{theirs}/cli"]
    module = importlib.import_module("espnet3.only_here")
    monkeypatch.delitem(sys.modules, "espnet3.only_here")
    monkeypatch.delattr(espnet3, "only_here")
    assert module.FOUND
