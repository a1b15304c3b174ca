"""Calls on a terminal that fail or are interrupted: they end, on every Python that the host has.

What a thread, a generator or a progress bar holds shows at the interpreter's end, and each version
of Python ends otherwise. `make test-pythons`, and so CI, runs this module on newer ones. With
ESPNET3_LONG_TESTS=1 those of the host get local mode's few dependencies from the network.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.helpers import LONG, ROOT, python
from tests.support.pythons import THIS, pythons

# What local mode imports; pip finds the builds of another version.
DEPENDENCIES = ("pydantic", "orjson", "rich")

SCRIPT = """
import sys, time
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {"deed": sys.argv[1]}

class Work(BaseRunner):
    @staticmethod
    def forward(idx, deed):
        if idx == 2 and deed == "raise":
            raise ValueError("two")
        if idx == 2 and deed == "wait":
            print("interrupt me", flush=True)
            for _ in range(6000):  # naps: Python does not see a signal just before a sleep
                time.sleep(0.1)
        return idx

if __name__ == "__main__":
    if sys.argv[2] == "sync":
        set_parallel({"env": "local", "n_workers": 1})
    print(sum(Work(Provider({}))(range(5))))
"""


def on_a_terminal(
    *words: str, env: dict[str, str] | None = None, until: str = ""
) -> tuple[int, str]:
    """Run a command on a terminal of its own, press Ctrl-C once it has said `until`.

    Returns:
        The exit code, and what the terminal showed.
    """
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        words, stdin=end, stdout=end, stderr=end, start_new_session=True,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
    )  # fmt: skip
    os.close(end)
    shown, deadline = b"", time.monotonic() + 100
    try:
        while time.monotonic() < deadline:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # nobody has it open any more
                break
            if until and until.encode() in shown:
                os.killpg(process.pid, signal.SIGINT)
                until = ""
        return process.wait(max(1.0, deadline - time.monotonic())), shown.decode()
    except subprocess.TimeoutExpired:
        raise AssertionError(f"does not end; it showed {shown.decode()!r}") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.close(terminal)


def check(interpreter: str, folder: Path, mode: str, env: dict[str, str] | None = None) -> None:
    script = folder / "work.py"
    script.write_text(SCRIPT)
    call = (interpreter, str(script))
    code, shown = on_a_terminal(*call, "nothing", mode, env=env)
    assert code == 0, shown
    assert "100%" in shown
    assert "10\r\n" in shown
    code, shown = on_a_terminal(*call, "raise", mode, env=env)
    assert code == 1, shown
    assert "ValueError" in shown
    assert "Exception ignored" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h")  # the cursor is there again
    assert shown.index("\x1b[?25h") < shown.index("Traceback")  # not drawn over
    code, shown = on_a_terminal(*call, "wait", mode, env=env, until="interrupt me")
    assert code == -signal.SIGINT, shown
    assert "KeyboardInterrupt" in shown
    assert "Exception ignored" not in shown


@pytest.mark.parametrize("mode", ["local", "sync"])
def test_a_call_on_a_terminal_ends(tmp_path: Path, mode: str) -> None:
    check(sys.executable, tmp_path, mode)


def test_what_forward_prints_goes_where_stdout_leads(tmp_path: Path) -> None:
    (tmp_path / "work.py").write_text(
        SCRIPT.replace(
            "        return idx\n",
            """\
        print("computed", idx)
        return idx
""",
        )
    )
    command = f"exec {sys.executable} work.py nothing local > printed"
    env = {"PYTHONPATH": str(ROOT)}
    code, shown = on_a_terminal("sh", "-c", f"cd {tmp_path} && {command}", env=env)
    assert code == 0, shown
    assert "100%" in shown
    assert "computed" not in shown
    printed = (tmp_path / "printed").read_text().splitlines()
    assert printed == [*(f"computed {item}" for item in range(5)), "10"]


@pytest.mark.server  # from which packages come
@pytest.mark.timeout(1200)  # which may take their time
@pytest.mark.skipif(not LONG, reason="needs the network; ESPNET3_LONG_TESTS=1 runs it")
def test_local_mode_on_a_terminal_ends_on_other_pythons(tmp_path: Path) -> None:
    others = pythons()
    others.pop(THIS, None)
    if not others:
        pytest.skip("there is no other Python on this host")
    for version, interpreter in others.items():
        folder = tmp_path / version
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder)]
        wanted = ["--only-binary=:all:", "--python-version", version, *DEPENDENCIES]
        made = subprocess.run([*pip, *wanted], capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"no packages for Python {version}: {made.stderr.splitlines()[-1]}")
        env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
        check(interpreter, folder, "local", env)


OPEN = """
import sys
from tests.support.helpers import parallel
from tests.support.sync_runners import Env, Scale
from espnet3.run import submit_run

def main():
    scale = Scale(Env({"scale": 2}))
    run = submit_run(scale, range(9), run_dir=sys.argv[1], parallel=parallel("local"))
    run.wait(interval=0.1)
    records = run.stream()
    print(next(records).result)
    raise ValueError("two")  # its traceback keeps the iterator until the interpreter ends

if __name__ == "__main__":
    main()
"""


def test_results_that_are_streamed_when_the_program_fails(tmp_path: Path) -> None:
    (tmp_path / "open.py").write_text(OPEN)
    done = python(str(tmp_path / "open.py"), str(tmp_path / "run"), env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (1, "0\n")
    assert done.stderr.splitlines()[-1] == "ValueError: two"
    assert done.stderr.count("Traceback") == 1
