"""A run of pytest that is interrupted while a cluster lives, for tests of what stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.daemons import Process, wait_for
from tests.support.helpers import LONG

ROOT = Path(__file__).parents[2]
# Ctrl-C goes to everything that the terminal started; a kill to pytest alone, or to a worker's end.
ALL_WAYS = ("ctrl-c", "sigkill", "sigkill to all")
# The last leaves least behind that could clean up; `test_guard.py` has the first, too.
WAYS = ALL_WAYS if LONG else ALL_WAYS[2:]
_TEST = """\
import tempfile, time
from pathlib import Path

{setup}

def test_it_is_interrupted() -> None:
    root = tempfile.mkdtemp(prefix="guarded-")
    cluster = {cluster}(root).start()
    {job}
    Path({ready!r} + ".new").write_text(root)
    Path({ready!r} + ".new").rename({ready!r})
    time.sleep(1000)
"""


def leaves_nothing(tmp_path: Path, way: str, setup: str, cluster: str, job: str) -> None:
    """Interrupt a test that has a cluster, and see it all end.

    Args:
        tmp_path: For the test's module.
        way: One of `ALL_WAYS`.
        setup: Lines that import what is used.
        cluster: The class of the cluster, which is given a folder.
        job: A statement that submits something to `cluster`.
    """
    ready, module = tmp_path / "ready", tmp_path / "test_interrupted.py"
    module.write_text(_TEST.format(setup=setup, cluster=cluster, job=job, ready=str(ready)))
    words = ["-q", "-n", "2", "-p", "tests.conftest", "-c", str(ROOT / "pyproject.toml")]
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "pytest", *words, f"--rootdir={tmp_path}", str(module)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        began = wait_for(lambda: ready.exists() or run.poll() is not None, 200)
        assert began, "the cluster did not start"
        assert ready.exists(), (tmp_path / "output").read_text()
        root = Path(ready.read_text())
        before = _of(root)
        assert len(before) >= 2
        if way == "ctrl-c":
            os.killpg(run.pid, signal.SIGINT)
        elif way == "sigkill":
            run.kill()
        else:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait(200)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    gone = wait_for(
        lambda: not any(process.alive() for process in before) and not root.exists(), 200
    )
    assert gone, [Path(f"/proc/{p.pid}/cmdline").read_bytes() for p in before if p.alive()]
    assert _of(root) == []


def _of(root: Path) -> list[Process]:
    """The live processes whose command line or environment names a cluster's folder."""
    found = []
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        process = Process.of(pid)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            told = b"".join(Path(f"/proc/{pid}/{x}").read_bytes() for x in ("cmdline", "environ"))
            if process is not None and os.fsencode(root) in told:
                found.append(process)
    return found
