"""Processes that `forward` starts on a Dask worker: allowed as in local mode, and ended with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.helpers import LONG, ROOT, python, wait_for
from tests.support.scripts import POOL


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("module", [False, True], ids=["script", "-m"])
def test_pools_of_the_scripts_own_functions(tmp_path: Path, method: str, module: bool) -> None:
    if module != (method == "spawn") and not LONG:
        pytest.skip("each of both is met with others; ESPNET3_LONG_TESTS=1 runs it")
    (tmp_path / "pools.py").write_text(POOL)
    words = ("-m", "pools") if module else ("pools.py",)
    done = python(*words, method, cwd=tmp_path)
    assert done.stdout == "True [[2, 2.0, 2, 2]]\n", done.stderr


LEFT = """
import multiprocessing, os, signal, sys, time
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

HERE = Path(__file__).parent

def note(name):
    (HERE / f"{name}.tmp").write_text(str(os.getpid()))
    (HERE / f"{name}.tmp").rename(HERE / f"{name}.pid")

def sleep(name):
    note(name)
    time.sleep(600)

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Work(BaseRunner):
    @staticmethod
    def forward(idx):
        note("worker")
        fork = multiprocessing.get_context("fork")
        fork.Process(target=sleep, args=("process",)).start()
        if sys.argv[1] == "wait":
            with fork.Pool(2) as pool:
                pool.map(sleep, ["first", "second"], chunksize=1)
        while not (HERE / "process.pid").exists():
            time.sleep(0.01)

if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 1})
    Work(Provider({}))([0])
    note("driver")
    if sys.argv[1] == "stay":
        time.sleep(600)
"""


def noted(folder: Path, *names: str) -> list[psutil.Process]:
    """Those still alive of the processes that noted themselves, in order, once all have."""
    files = [folder / f"{name}.pid" for name in names]
    wait_for(lambda: all(file.exists() for file in files), f"not all of {names} began")
    processes = []
    for file in files:
        with contextlib.suppress(psutil.NoSuchProcess):  # its driver may have ended it by now
            processes.append(psutil.Process(int(file.read_text())))
    return processes


@pytest.mark.parametrize(
    "deed", ["kill driver", "interrupt driver", "kill worker", "stop driver", "end"]
)
def test_nothing_stays_behind(tmp_path: Path, deed: str) -> None:
    """Neither a worker nor what `forward` started, however the driver or the worker ends."""
    (tmp_path / "left.py").write_text(LEFT)
    how = "end" if deed == "end" else "wait"
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "left.py"), how], start_new_session=True, stderr=-1
    ) as driver:
        if deed == "end":
            processes = noted(tmp_path, "process")
        else:
            processes = noted(tmp_path, "worker", "process", "first", "second")
        match deed:
            case "kill driver":
                os.kill(driver.pid, signal.SIGKILL)
            case "interrupt driver":
                os.kill(driver.pid, signal.SIGINT)
            case "stop driver":
                os.kill(driver.pid, signal.SIGTERM)
            case "kill worker":
                processes[0].kill()
        _, alive = psutil.wait_procs(processes, timeout=60)
        assert not alive
        if deed == "kill worker":  # Dask starts another one, and the item runs again
            os.kill(driver.pid, signal.SIGINT)
        driver.wait(60)


OF_A_CLIENT = """
import multiprocessing
from espnet3.parallel.parallel import get_client, parallel_map, set_parallel

def double(x):
    return 2 * x

def work(x):
    with multiprocessing.Pool(1) as pool:
        return pool.map(double, [x])[0]

if __name__ == "__main__":
    with get_client({"env": "local", "n_workers": 1}) as client:
        print(parallel_map(work, range(3), client=client))
"""


def test_pools_at_the_low_level(tmp_path: Path) -> None:
    (tmp_path / "low.py").write_text(OF_A_CLIENT)
    done = python(str(tmp_path / "low.py"), env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "[0, 2, 4]\n", done.stderr
