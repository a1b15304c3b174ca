"""Whether source files read the command line where a worker may run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet3.user_code.command_line import reader_of_argv

HOOKS = ("forward", "build_env_local")
GUARDED = """
import argparse, sys

class Runner:
    @staticmethod
    def forward(idx):
        return idx

def parse():
    parser = argparse.ArgumentParser()
    return parser.parse_args()

def main(words=None):
    args = parse()

if __name__ == "__main__":
    sys.argv.append("x")
    main()
"""


def reader(folder: Path, **sources: str) -> str | None:
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    found = reader_of_argv([str(folder / f"{name}.py") for name in sources], HOOKS)
    return None if found is None else Path(found).stem


def test_what_only_the_script_runs_is_no_reader(tmp_path: Path) -> None:
    assert reader(tmp_path, a=GUARDED) is None
    assert reader(tmp_path, a="def forward(idx):\n    return idx\n") is None


@pytest.mark.parametrize(
    "source",
    [
        "import sys\nN = len(sys.argv)\n",
        "from sys import argv\nclass A:\n    words = argv[1:]\n",
        "import sys\ndef forward(idx):\n    return sys.argv\n",
        "import sys\ndef forward(idx):\n    return other()\ndef other():\n    return sys.argv\n",
        "import sys\nclass A:\n    def __init__(self):\n        self.words = sys.argv\n",
        "import sys\ndef forward(idx):\n    def inner():\n        return sys.argv\n",
        "if __name__ != '__main__':\n    import sys\n    sys.argv\n",
        "from omegaconf import OmegaConf\nconfig = OmegaConf.from_cli()\n",
        "import sys\nif __name__ == '__main__':\n    pass\nelse:\n    sys.argv\n",
        "print sys.argv\n",
        "import sys\ndef forward(idx, words=sys.argv):\n    return idx\n",
        "import sys\n@len(sys.argv)\ndef other():\n    return 1\n",
        "from transformers import HfArgumentParser\nHfArgumentParser(int)\n",
    ],
)
def test_what_a_worker_may_run_is(tmp_path: Path, source: str) -> None:
    assert reader(tmp_path, a="", b=source) == "b"


def test_functions_of_other_modules_are_followed(tmp_path: Path) -> None:
    library = "import argparse\ndef options():\n    return argparse.ArgumentParser().parse_args()\n"
    calls = "from lib import options\ndef forward(idx):\n    return options()\n"
    assert reader(tmp_path, lib=library, user=calls) == "lib"
    renamed = "from lib import options as chosen\nCHOSEN = chosen()\n"
    assert reader(tmp_path, lib=library, user=renamed) == "lib"
    assert reader(tmp_path, lib=library, user="import lib\nlib.something()\n") is None


def test_source_may_nest_deep(tmp_path: Path) -> None:
    choices = "".join(f"    elif x == {i}: return {i}\n" for i in range(1, 1200))
    table = f"def pick(x):\n    if x == 0: return 0\n{choices}"
    guarded = "if __name__ == '__main__':\n    parse_args()\n"
    assert reader(tmp_path, a=table + guarded) is None
    assert reader(tmp_path, a=f"{table}parse_args()\n") == "a"


def test_source_is_read_in_its_own_encoding(tmp_path: Path) -> None:
    for name, head, encoding in (("a", "# coding: latin-1\n", "latin-1"), ("b", "", "utf-8-sig")):
        (tmp_path / f"{name}.py").write_text(f"{head}'ü'\nimport sys\nsys.argv\n", encoding)
        assert reader_of_argv([str(tmp_path / f"{name}.py")], HOOKS) is not None
    (tmp_path / "b.py").write_text("def f():\n    return sys.argv\n", "utf-8-sig")
    assert reader_of_argv([str(tmp_path / "b.py")], HOOKS) is None


def test_what_is_no_source_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.so").write_bytes(b"\xff argv")
    assert reader_of_argv([str(tmp_path / "a.so"), str(tmp_path / "gone.py")], HOOKS) is None
