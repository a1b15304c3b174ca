"""A small package that is called as ESPnet's, and environments where it lies beside ours.

Nothing of it is ESPnet's. What is installed comes from folders of this host, never from a network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300  # seconds for one command
FILES = {
    "pyproject.toml": """
        [project]
        name = "espnet"
        version = "202609"
        [build-system]
        requires = ["setuptools"]
        build-backend = "setuptools.build_meta"
        [tool.setuptools.packages.find]
        include = ["espnet*"]
    """,
    "espnet2/__init__.py": "",
    "espnet3/__init__.py": "THEIRS = True",
    "espnet3/components/__init__.py": "",
    "espnet3/components/y.py": "",
    "espnet3/systems/__init__.py": "",
    "espnet3/systems/base/__init__.py": "",
    "espnet3/systems/base/x.py": """
        from espnet3.components import y
        from espnet3.parallel.base_runner import BaseRunner
        from espnet3.parallel.env_provider import EnvironmentProvider

        class Sizes(EnvironmentProvider):
            def build_env_local(self):
                return {"file": __file__}

        class Squares(BaseRunner):
            @staticmethod
            def forward(idx, *, file, **env):
                return [idx * idx, file]
    """,
    "espnet3/parallel/__init__.py": "",
    "espnet3/parallel/base_runner.py": "class BaseRunner: 'Theirs.'",
    "espnet3/parallel/env_provider.py": "class EnvironmentProvider: 'Theirs.'",
    "espnet3/parallel/only_theirs.py": "",
    "espnet3/cli/__init__.py": "",
    "espnet3/cli/main.py": "def main(): print('their command')",
}


def espnet_like(folder: Path, *, inner: str = "") -> Path:
    """Write the package's source; its modules below `inner`."""
    for name, text in FILES.items():
        file = folder / ("" if name == "pyproject.toml" else inner) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = text.strip("\n").splitlines()
        indent = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
        file.write_text("".join(f"{line[indent:]}\n" for line in lines))
    if inner:
        pyproject = folder / "pyproject.toml"
        text = f'{pyproject.read_text()}where = ["{inner}"]\n'
        pyproject.write_text(text)
    return folder


def our_wheel(folder: Path) -> Path:
    """Build this package's wheel."""
    _pip(sys.executable, "wheel", "--quiet", "--wheel-dir", folder, ROOT)
    [wheel] = folder.glob("espnet3-*.whl")
    return wheel


class Environment:
    """A virtual environment that sees what ours has installed, but for this package.

    Attributes:
        folder: where it is.
        variables: environment variables of its processes besides this one's.

    Args:
        made: whether it is there already.
    """

    def __init__(self, folder: Path, *, made: bool = False) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        if made:
            return
        venv.create(folder, with_pip=False, symlinks=True)
        # What a .pth file says of a folder is not read where another .pth file names the folder.
        (self.site / "zz_rest.pth").write_text(sysconfig.get_path("purelib") + "\n")

    @property
    def site(self) -> Path:
        """Its folder of packages."""
        [site] = self.folder.glob("lib/python3*/site-packages")
        return site

    def copy(self, folder: Path) -> Environment:
        """An environment of its own in which the same is installed, in a fraction of the time."""
        shutil.copytree(self.folder, folder, symlinks=True)
        for file in (folder / "bin").iterdir():
            if not file.is_symlink():
                text = file.read_text().replace(str(self.folder), str(folder))
                file.write_text(text)
        return Environment(folder, made=True)

    def install(self, *words: str | Path) -> None:
        """Let pip install something."""
        _pip(self.folder / "bin/python", "install", "--quiet", *words)

    def run(self, *words: str | Path, ok: bool = True) -> tuple[str, str]:
        """What a program of it prints, and what it complains."""
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | self.variables
        done = subprocess.run(
            [self.folder / "bin" / words[0], *words[1:]],
            cwd=self.folder, env=environ, text=True, capture_output=True, timeout=PATIENCE,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode == 0) is ok, (done.returncode, done.stdout, done.stderr)
        return done.stdout, done.stderr

    def origins(self, modules: Sequence[str]) -> Mapping[str, Any]:
        """Where modules are imported from, and what is warned of."""
        program = (
            "import importlib, json, sys\n"
            "print(json.dumps({m: importlib.import_module(m).__file__ for m in sys.argv[1:]}))"
        )
        out, complaints = self.run("python", "-c", program, *modules)
        return {**json.loads(out), "": complaints}


def _pip(python: str | Path, verb: str, *words: str | Path) -> None:
    offline = ("--no-index", "--no-deps", "--no-build-isolation")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", verb,
         *offline, *words],
        text=True, capture_output=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
