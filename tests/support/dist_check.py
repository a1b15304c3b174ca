"""Install the wheel in dist/ into an empty environment of each Python, and run the demo there.

    python -m tests.support.dist_check [INTERPRETER ...]

Without arguments: every Python from 3.11 on that this host has, by PATH and pyenv. What is missing
in the wheel, or in its list of requirements, shows only where nothing else is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST, NEWEST = 11, 20  # minor versions that are looked for
PATIENCE = 1200  # seconds for one command, on a host that does much else
ASK = "import sys, ensurepip, venv; print(*sys.version_info[:2], sep='.'); print(sys.executable)"
PUBLIC = ("", ".collect", ".errors", ".parallel", ".specs", ".status", ".submit")
# No file of the repository, every public name, and what tells a type checker.
LOOK = f"""
import importlib, pathlib, sys
import espnet3
here = pathlib.Path(espnet3.__file__).parent
assert here.is_relative_to(sys.prefix), here
assert (here / "py.typed").exists() and (here / "__init__.pyi").exists()
for room in {PUBLIC}:
    module = importlib.import_module("espnet3" + room)
    assert all(hasattr(module, name) for name in module.__all__), room
print("espnet3", espnet3.__version__, "on Python", sys.version.split()[0])
"""


def interpreters() -> dict[str, str]:
    """Version -> path of each Python that this host has and that can make environments."""
    names = [f"python3.{minor}" for minor in range(OLDEST, NEWEST)]
    candidates = [path for name in names if (path := shutil.which(name))]
    candidates += sorted(map(str, Path.home().glob(".pyenv/versions/3.*/bin/python3")))
    found: dict[str, str] = {}
    for candidate in [sys.executable, *candidates]:
        for version, executable in _asked(candidate):
            if int(version.split(".")[1]) >= OLDEST:
                found.setdefault(version, executable)
    return dict(sorted(found.items()))


def _asked(interpreter: str) -> Iterator[tuple[str, str]]:
    """Its version and path; nothing where it is a shim of none, or lacks ensurepip."""
    done = subprocess.run([interpreter, "-c", ASK], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        version, path = done.stdout.split("\n")[:2]
        yield version, path


def check(interpreter: str, wheel: Path, folder: Path) -> None:
    """Install, look, run; the first command that fails is an error with what it printed."""
    environ = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    environ["VIRTUAL_ENV"] = str(folder / "env")

    def run(*command: str | Path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=environ, text=True, timeout=PATIENCE, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{interpreter}: {command[1:]}: {done.returncode}\n{done.stdout}")
        return done.stdout

    example = shutil.copytree(
        ROOT / "examples/librivox", folder / "librivox", ignore=shutil.ignore_patterns("runs")
    )
    run(interpreter, "-m", "venv", folder / "env")
    python = folder / "env/bin/python"
    pip = (python, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "install", "--quiet", f"{wheel}[examples]")
    run(*pip, "check")
    print(run(python, "-c", LOOK).strip(), flush=True)
    for command in ("espnet3", "espnet3-run"):
        run(python.with_name(command), "--help")
    print(run(python, example / "demo.py").strip().splitlines()[-2], flush=True)


def main(arguments: list[str]) -> None:
    """Check the wheel with each interpreter."""
    wheels = sorted((ROOT / "dist").glob("*.whl"))
    if len(wheels) != 1:
        sys.exit(f"dist/ holds {len(wheels)} wheels, not one: make dist")
    for interpreter in arguments or interpreters().values():
        with tempfile.TemporaryDirectory(prefix="espnet3-dist-") as folder:
            check(interpreter, wheels[0], Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
