"""The synchronous mode, on real Dask clusters of this host."""

from __future__ import annotations

import asyncio
import importlib
import os
import pty
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from espnet3.errors import UnserializableResult, WorkersKilled
from espnet3.parallel import set_parallel, synchronous
from espnet3.run import Run
from tests.support.helpers import LONG, ROOT, noted, python, wait_for
from tests.support.strategies import JSON
from tests.support.sync_runners import (
    Entries,
    Env,
    Look,
    Misbehaving,
    Nest,
    NoDict,
    Pid,
    Scale,
    SetupOnly,
    TwoArgumentsError,
    Unbuildable,
)

TWO: dict[str, Any] = {"env": "local", "n_workers": 2, "preflight": False}
IMPATIENT = {**TWO, "options": {"scheduler_kwargs": {"allowed_failures": 1}}}


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    set_parallel(None)


@pytest.fixture(autouse=True)
def _two_workers(_closed: None) -> None:
    """The shared client stays from test to test, as it would in a program."""
    set_parallel(TWO)


def client() -> Any:
    shared = synchronous._shared
    return None if shared is None else shared.client


def workers() -> set[int]:
    """The worker processes below this one."""
    return {
        child.pid
        for child in psutil.Process().children(recursive=True)
        if child.is_running() and "spawn_main" in " ".join(child.cmdline())
    }


# --- one call, three modes ------------------------------------------------------------------------


def in_all_modes(runner: Any, items: Any) -> tuple[Any, Any, Any]:
    set_parallel(None)
    local = runner(items)
    set_parallel(TWO)
    synchronous_ = runner(items)
    with tempfile.TemporaryDirectory() as folder:
        runner.run_dir, runner.async_mode = Path(folder, "run"), True
        run = runner(items)
        assert isinstance(run, Run)
        run.wait(timeout=60, interval=0.1)
        return local, synchronous_, run.collect()


def test_one_call_three_modes() -> None:
    results = in_all_modes(Scale(Env({"scale": 3})), range(20))
    assert results == ([3 * item for item in range(20)],) * 3


def test_the_config_may_ask_for_the_asynchronous_mode(tmp_path: Path) -> None:
    set_parallel({**TWO, "async_mode": True})
    run = Scale(Env({"scale": 3}), run_dir=tmp_path / "run")(range(4))
    run.wait(timeout=60, interval=0.1)
    assert run.collect() == [0, 3, 6, 9]


def test_a_provider_that_defines_the_setup_under_its_later_name(tmp_path: Path) -> None:
    assert Scale(SetupOnly(5))(range(3)) == [0, 5, 10]
    run = Scale(SetupOnly(5), async_mode=True, run_dir=tmp_path / "run")(range(3))
    run.wait(timeout=60, interval=0.1)
    assert run.collect() == [0, 5, 10]


BATCH_SIZES = st.none() | st.integers(1, 7)


# What looks like something else in JSON, in Python or in a file of results.
EXOTIC: list[Any] = [
    None, True, 1, 1.0, 0, 0.0, -0.0, False, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2**53 + 1,
    2**63 - 1, -(2**63), "", "null", "1", "\n", "\r\n", "\u2028\x00\x7f", "\U0001f600", "e\u0301",
    '"\\/', [], {}, [[]], [None], [{}], {"": {"": []}}, {"item": 0, "result": 1}, {"error": "no"},
    {"schema_version": 1}, {"a": {"$ref": "#"}, "__main__": "__reduce__"}, {"1": 1, "true": True},
    {"z": 1, "a": 2}, [1, [2, [3, [4, [5, [6, [7, [8]]]]]]]], "x" * 100_000,
]  # fmt: skip


@example(values=EXOTIC, batch_size=None)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=st.lists(JSON, max_size=30), batch_size=BATCH_SIZES)
def test_local_and_synchronous_results_are_equal(values: list[Any], batch_size: int | None) -> None:
    runner = Look(Env({"values": values}), batch_size=batch_size)
    items = range(len(values))
    remote = runner(items)
    local = runner._run_here(runner._calls(items), False)  # without closing the client
    assert remote == local
    assert list(map(repr, remote)) == list(map(repr, local))  # 1 == 1.0 == True, 0.0 == -0.0


@example(values=EXOTIC, batch_size=4)
@settings(max_examples=2 if LONG else 1, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(values=st.lists(JSON, min_size=20, max_size=60), batch_size=BATCH_SIZES)
def test_all_modes_give_equal_results(values: list[Any], batch_size: int | None) -> None:
    runner = Look(Env({"values": values}), batch_size=batch_size)
    local, remote, collected = in_all_modes(runner, range(len(values)))
    assert repr(local) == repr(remote) == repr(collected)


def test_no_items_are_no_results() -> None:
    assert Scale(Env({"scale": 3}))([]) == []


def test_the_order_is_that_of_the_items() -> None:
    items = [*range(500, 0, -1)]
    assert Scale(Env({"scale": 1}))(iter(items)) == items


def test_an_environment_may_have_any_names() -> None:
    env = {"item": 1, "self": 2, "func": 3, "kwargs": 4, "call": 5}
    assert Entries(Env(env))([0]) == [env]


# --- the shared client ----------------------------------------------------------------------------


def test_the_client_lives_until_the_config_changes() -> None:
    runner = Pid(Env({}))
    first = set(runner(range(30)))
    used = client()
    assert set(runner(range(30))) <= first | workers()
    set_parallel(dict(TWO))
    runner(range(3))
    assert client() is used
    before = workers()
    set_parallel({**TWO, "n_workers": 1})
    assert used.status == "closed"
    wait_for(lambda: not before & workers(), "workers of the former client live on")
    assert len(set(runner(range(30)))) == 1
    set_parallel(None)
    assert client() is None


def test_the_environment_is_built_once_per_worker_process(tmp_path: Path) -> None:
    provider = Env({"folder": str(tmp_path), "scale": 2})
    for _ in range(3):
        assert Scale(provider)(range(50)) == [*range(0, 100, 2)]
    assert len(noted(tmp_path, "built")) == 2
    assert set(noted(tmp_path, "built").values()) == {1}
    # Another provider has its own environment, and the first one's is built again after it.
    assert Scale(Env({"scale": 5}))([1]) == [5]
    assert Scale(provider)([1]) == [2]
    assert set(noted(tmp_path, "built").values()) == {2}


@pytest.mark.parametrize(("bad", "error"), [(Unbuildable, OSError), (NoDict, ValueError)])
def test_an_environment_that_cannot_be_built(bad: Any, error: type[Exception]) -> None:
    good = Env({"scale": 2})
    assert Scale(good)([1]) == [2]
    with pytest.raises(error, match=r"no such model|must return a dict, got list"):
        Scale(bad({}))(range(3))
    assert Scale(good)([1]) == [2]


def test_threads_with_different_providers_wait_for_each_other() -> None:
    def call(scale: int) -> list[list[int]]:
        return [Scale(Env({"scale": scale}))(range(30)) for _ in range(3)]

    with ThreadPoolExecutor(3) as threads:
        for scale, results in enumerate(threads.map(call, range(3))):
            assert results == [[scale * item for item in range(30)]] * 3


def test_a_call_within_a_task_is_local() -> None:
    set_parallel({"env": "local", "n_workers": 1, "options": {"processes": False}})
    assert Nest(Env({"scale": 2}))(range(3)) == [[2], [0, 2], [0, 20, 2]]


def test_workers_find_what_the_import_path_got_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Scale(Env({"scale": 2}))([1]) == [2]
    (tmp_path / "came_later.py").write_text(
        "from espnet3.parallel import BaseRunner\n"
        "class Same(BaseRunner):\n"
        "    @staticmethod\n"
        "    def forward(idx, **env):\n"
        "        return idx\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    later = importlib.import_module("came_later")
    assert later.Same(Env({}))([1, 2]) == [1, 2]


# --- failures -------------------------------------------------------------------------------------


def test_an_exception_reaches_the_caller_and_the_rest_is_cancelled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^thirteen\n") as caught:
        Misbehaving(Env({"deed": "raise", "folder": str(tmp_path)}))(range(20_000))
    said, trace = caught.value.__notes__
    assert said.startswith("while computing item 13 on tcp://")
    assert "remote traceback" in trace
    assert "sync_runners.py" in trace
    assert Scale(Env({"scale": 2}))([4]) == [8]
    assert sum(noted(tmp_path, "begun").values()) < 1000


@pytest.mark.parametrize(
    ("deed", "error", "says"),
    [
        ("exit", SystemExit, r"^enough\n"),
        ("two", RuntimeError, r"^TwoArgumentsError: 1 and 2\n"),
        ("locked", RuntimeError, r"^LockedError: locked\n"),
        ("stop", RuntimeError, r"^StopIteration: over\n"),
        ("cancelled", asyncio.CancelledError, r"^mine\n"),
        ("interrupt", KeyboardInterrupt, r"^mine\n"),
        ("lock", UnserializableResult, "the result of item 13 cannot be stored as pickle"),
    ],
)
def test_what_cannot_travel(deed: str, error: type[BaseException], says: str) -> None:
    assert TwoArgumentsError(1, 2).args == ("1 and 2",)
    with pytest.raises(error, match=says) as caught:
        Misbehaving(Env({"deed": deed}))(range(40))
    assert "while computing item 13" in caught.value.__notes__[0]


def test_a_result_that_cannot_be_unpickled() -> None:
    with pytest.raises(TypeError, match="'two'\nwhile unpickling the results of"):
        Misbehaving(Env({"deed": "unloadable"}))(range(20))


def test_what_cannot_be_pickled_is_no_traceback_in_the_log(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnserializableResult):
        Misbehaving(Env({"deed": "lock"}))(range(20))
    assert "Traceback" not in capfd.readouterr().err


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    runner = Misbehaving(Env({"deed": "kill once", "folder": str(tmp_path)}))
    assert runner(range(300)) == [*range(300)]
    assert (tmp_path / "killed").exists()


def test_an_item_that_keeps_killing_workers_is_named(tmp_path: Path) -> None:
    set_parallel(IMPATIENT)
    with pytest.raises(WorkersKilled, match=r"^item 13 killed every worker") as caught:
        Misbehaving(Env({"deed": "kill", "folder": str(tmp_path)}))(range(20))
    assert caught.value.item == 13


# --- the process ----------------------------------------------------------------------------------

SCRIPT = """
import sys, time
from pathlib import Path
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

HERE = Path(__file__).parent

class Provider(EnvironmentProvider):
    def build_env_local(self):
        return {"scale": self.config}

class Work(BaseRunner):
    @staticmethod
    def forward(idx, scale):
        if idx == -1:
            Path(HERE, "waiting").touch()
            time.sleep(600)
        return idx * scale

def main():
    set_parallel({"env": "local", "n_workers": 2})
    print(sum(Work(Provider(2))(eval(sys.argv[1]))))

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "work.py"
    file.write_text(SCRIPT)
    return file


def test_a_program_ends_without_a_warning(script: Path) -> None:
    done = python("-W", "error", "-X", "dev", str(script), "range(1000)")
    assert (done.returncode, done.stdout, done.stderr) == (0, "999000\n", "")


LINGERING = """
import atexit, time
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

class Lingering(EnvironmentProvider):
    def build_env_local(self):
        atexit.register(time.sleep, 600)  # as a worker of a loaded host, or with a large model
        return {}

class Same(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx

if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 2})
    print(sum(Same(Lingering({}))(range(5))))
"""


def test_workers_that_are_slow_to_end_are_ended_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "lingering.py").write_text(LINGERING)
    done = python("-W", "error", str(tmp_path / "lingering.py"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "10\n", "")


@pytest.mark.parametrize("module", [False, True], ids=["script", "-m"])
def test_a_script_without_a_guard_is_told_so(script: Path, module: bool) -> None:
    script.write_text(SCRIPT.replace('if __name__ == "__main__":\n    main()', "main()"))
    call = ("-m", "work") if module else (str(script),)
    done = python(*call, "range(1000)", cwd=script.parent)
    line = 1 + script.read_text().splitlines().index("main()")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"espnet3.errors.UsageError: {script}:{line}: put this call below "
        '`if __name__ == "__main__":`, since each worker process imports the script and would call '
        "it again"
    )
    assert done.stderr.count("Traceback") == 1  # nothing was started


FORK = """
import multiprocessing
from tests.support.sync_runners import Env, Scale
from espnet3.parallel import set_parallel

def child():
    try:
        Scale(Env({"scale": 2}))([1])
    except Exception as error:
        print(type(error).__name__)
    set_parallel(None)
    print(Scale(Env({"scale": 2}))([1]), flush=True)

if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 1})
    print(Scale(Env({"scale": 3}))([1]), flush=True)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    print(Scale(Env({"scale": 4}))([1]))
"""


def test_a_forked_process_has_no_part_in_the_client(tmp_path: Path) -> None:
    (tmp_path / "fork.py").write_text(FORK)
    done = python(str(tmp_path / "fork.py"), env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.split("\n")[:-1] == ["[3]", "UsageError", "[2]", "[4]"]


def test_ctrl_c_leaves_no_process(script: Path, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, str(script), "[1, 2, -1]"], start_new_session=True, stderr=-1, text=True
    )
    wait_for((tmp_path / "waiting").exists, "the item was not begun")
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) >= 2
    os.killpg(driver.pid, signal.SIGINT)
    _, errors = driver.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert driver.returncode == -signal.SIGINT
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


INTERRUPTED = """
import os, signal, threading, time
import psutil
import espnet3.parallel.synchronous
from espnet3.parallel import set_parallel
from tests.support.sync_runners import Env, Scale

def children():
    here = psutil.Process().children(recursive=True)
    return [child for child in here if "spawn_main" in " ".join(child.cmdline())]

def interrupt():
    while not children():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    set_parallel({"env": "local", "n_workers": 2})
    threading.Thread(target=interrupt).start()
    try:
        Scale(Env({"scale": 2}))([1])
    except KeyboardInterrupt:
        print(len(children()), Scale(Env({"scale": 2}))([1]))
"""


def test_ctrl_c_while_the_cluster_starts(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(INTERRUPTED)
    done = python(str(tmp_path / "interrupted.py"), env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "0 [2]\n", done.stderr


def test_a_progress_bar_is_drawn_on_a_terminal(script: Path) -> None:
    terminal, end = pty.openpty()
    driver = subprocess.Popen(
        [sys.executable, str(script), "range(1000)"], stdout=-1, stderr=end, text=True
    )
    os.close(end)
    assert driver.stdout is not None
    drawn = b""
    while b"100%" not in drawn:
        drawn += os.read(terminal, 4096)  # an error (EIO) where it ended without
    assert b"Work" in drawn
    assert driver.communicate(timeout=60)[0] == "999000\n"
    os.close(terminal)


HYDRA_LIKE = """
import logging
import sys

from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel


class Nothing(EnvironmentProvider):
    def build_env_local(self):
        return {}


class Talk(BaseRunner):
    @staticmethod
    def forward(idx):
        print("said", idx)
        print("complained", idx, file=sys.stderr)
        return idx


if __name__ == "__main__":  # Dask is not loaded yet, so its loggers would use this handler
    logging.basicConfig(level=logging.INFO, format="LOG %(name)s %(message)s")
    set_parallel({"env": "local", "n_workers": 2})
    print(Talk(Nothing({}))(range(3)))
    set_parallel(None)
"""


def test_what_workers_print_reaches_stderr_by_name_and_dask_stays_quiet(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text(HYDRA_LIKE)
    done = python(tmp_path / "talk.py")
    assert done.stdout == "[0, 1, 2]\n"
    lines = done.stderr.splitlines()
    for what in ("said", "complained"):
        for item in range(3):
            assert any(line in (f"[0] {what} {item}", f"[1] {what} {item}") for line in lines)
    assert not [line for line in lines if line.startswith("LOG distributed")]


def test_the_dashboard_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("bokeh", reason="the extra dashboard is not installed")
    set_parallel({**TWO, "n_workers": 1})
    assert Scale(Env({"scale": 2}))([1]) == [2]
    assert "espnet3: dashboard: http://" in capfd.readouterr().err
