"""The Pythons that this host has, and the tests on each of them.

python -m tests.support.pythons [--from 3.13] [pytest's arguments]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST, NEWEST = 11, 19  # minor versions that are looked for
THIS = f"3.{sys.version_info.minor}"
ENVIRONMENTS = ROOT / ".venv-pythons"


def pythons() -> dict[str, str]:
    """Version -> interpreter: those on the PATH, and those that are installed beside this one."""
    names = [f"python3.{minor}" for minor in range(OLDEST, NEWEST)]
    beside = [str(file) for file in Path(sys.base_prefix).parent.glob("*/bin/python3")]
    ask = "import sys, select, ensurepip; print(*sys.version_info[:2], sep='.')"
    wanted = {f"3.{minor}" for minor in range(OLDEST, NEWEST)}
    found: dict[str, str] = {}
    for word in [*filter(None, map(shutil.which, names)), *sorted(beside)]:
        asked = subprocess.run([word, "-c", ask], capture_output=True, text=True, check=False)
        if asked.stdout.strip() in wanted:  # a shim may say that there is none
            found[asked.stdout.strip()] = word
    return dict(sorted(found.items(), key=lambda one: _number(one[0])))


def environment(version: str, interpreter: str) -> str:
    """The Python of an environment with all that tests need, which is made where it is missing.

    Raises:
        CalledProcessError: It cannot be made; pip has said why.
    """
    folder = ENVIRONMENTS / version
    python, made = str(folder / "bin/python"), folder / ".installed"
    wanted = (ROOT / "pyproject.toml").stat().st_mtime
    if not made.exists() or made.stat().st_mtime < wanted:
        subprocess.run([interpreter, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--editable", f"{ROOT}[examples,test]"], check=True)
        made.touch()
    return python


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tests that need no server on each Python; 1 if they fail on one of them."""
    parser = argparse.ArgumentParser(prog="pythons", description=main.__doc__)
    parser.add_argument("--from", default=f"3.{OLDEST}", dest="oldest", metavar="VERSION")
    chosen, rest = parser.parse_known_args(arguments)
    ended: dict[str, str] = {}
    for version, interpreter in pythons().items():
        if _number(version) < _number(chosen.oldest):
            continue
        print(f"--- Python {version} ({interpreter})", flush=True)
        try:
            python = environment(version, interpreter)
        except subprocess.CalledProcessError as error:
            ended[version] = f"no environment: exit code {error.returncode}"
            continue
        words = [python, "-m", "pytest", "-m", "not server", *rest]
        environ = {**os.environ, "ESPNET3_WITHOUT_SERVERS": "1"}
        code = subprocess.run(words, cwd=ROOT, env=environ, check=False).returncode
        ended[version] = "passed" if code == 0 else f"FAILED: exit code {code}"
    print(*(f"Python {version}: {words}" for version, words in ended.items()), sep="\n")
    if not ended:
        print(f"there is no Python from {chosen.oldest} on")
    return 0 if set(ended.values()) <= {"passed"} else 1


def _number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


if __name__ == "__main__":
    sys.exit(main())
