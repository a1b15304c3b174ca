"""Drivers that meet others or a Ctrl-C at an awkward moment, started; see `rude_driver.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.helpers import ROOT


def rude(*words: str | Path, **environ: str) -> subprocess.Popen[str]:
    """Start a driver; see rude_driver.py."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.rude_driver", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(driver: subprocess.Popen[str], code: int = 0) -> str:
    """What a driver printed in the end."""
    out, err = driver.communicate(timeout=60)
    assert driver.returncode == code, out + err
    return out if code == 0 else err


def meet(folder: Path, file: str, *words: str) -> list[str]:
    """What two drivers say that come to the writing of the same file at the same time."""
    (folder / "meeting").write_text("2")
    drivers = [rude("meet", folder, file, *words) for _ in range(2)]
    found = [said(driver) for driver in drivers]
    assert len((folder / "met").read_text().split()) >= 2
    return found
