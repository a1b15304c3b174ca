"""Small runs for tests of the worker: a provider and runner whose behaviour the config names."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet3.config.model import parse_parallel
from espnet3.parallel import BaseRunner, EnvironmentProvider
from espnet3.specs import layout
from espnet3.specs.items import plan_items
from espnet3.specs.models import AttemptRecord, Receipt, RunSpec, decode, encode
from espnet3.storage.base import Store
from espnet3.submit.launcher_choice import make_launcher
from espnet3.submit.plan import plan_run
from espnet3.submit.submission import PlannedSubmission, make_submission
from espnet3.submit.submitter import this_submitter
from espnet3.worker import result_writer


class Setup(EnvironmentProvider):
    """The environment is what the config says; `raises` and `returns` make it a bad one."""

    def build_env_local(self) -> dict[str, Any]:
        trouble = self.config.get("raises")
        if trouble is not None:
            raise TROUBLES[trouble]()
        if "returns" in self.config:
            returned: dict[str, Any] = self.config["returns"]
            return returned
        return {"config": self.config}


class BadMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


TROUBLES: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("two\nlines"),
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "BadMessage": BadMessage,
    "surrogate": lambda: ValueError("a\udcff"),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), TypeError("b")]),
    "RecursionError": lambda: RecursionError("too deep"),
    "MemoryError": MemoryError,
}


class Kill:
    """A result that sends a signal to its own process while it is pickled."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        os.kill(os.getpid(), self.number)
        return int, (self.number,)


calls: list[Any] = []
"""The items for which `Work.forward` was called in this process."""
# Not the list: workers in this process would set it to what it was at the submission.
_note = calls.append


class Work(BaseRunner):
    """Doubles integers; at the item `at` it does what the config's `do` says."""

    @staticmethod
    def forward(idx: Any, *, config: dict[str, Any]) -> Any:
        _note(idx)
        if idx == config.get("at"):
            return DEEDS[config["do"]](idx, config)
        return 2 * idx


def _raise(idx: Any, config: dict[str, Any]) -> Any:
    raise TROUBLES[config["trouble"]]()


def _change_directory(idx: Any, config: dict[str, Any]) -> Any:
    os.chdir("/")
    return 2 * idx


def _print(idx: Any, config: dict[str, Any]) -> Any:
    print("from forward", flush=True)
    os.write(2, b"and from below\n")
    return 2 * idx


def _close_streams(idx: Any, config: dict[str, Any]) -> Any:
    sys.stdout.close()
    sys.stderr.close()
    return 2 * idx


def _close_descriptors(idx: Any, config: dict[str, Any]) -> Any:
    os.close(1)
    os.close(2)
    return 2 * idx


def _signal(config: dict[str, Any]) -> int:
    return int(signal.Signals[config["signal"]])


def _loop(idx: Any, config: dict[str, Any]) -> Any:
    print("at it", flush=True)
    while True:
        pass


def _kill_and_loop(idx: Any, config: dict[str, Any]) -> Any:
    os.kill(os.getpid(), _signal(config))
    while True:
        pass


def _await_and_kill(idx: Any, config: dict[str, Any]) -> Any:
    """Wait for a file, and end as by a scheduler's signal."""
    eventually(Path(config["file"]).exists)
    return _kill_and_loop(idx, config)


def _await(idx: Any, config: dict[str, Any]) -> Any:
    """Wait for a file."""
    print("at the gate", file=sys.stderr, flush=True)
    eventually(Path(config["file"]).exists)
    return 2 * idx


def _kill_and_go_on(idx: Any, config: dict[str, Any]) -> Any:
    os.kill(os.getpid(), _signal(config))
    return 2 * idx


def _kill_while_cleaning_up(idx: Any, config: dict[str, Any]) -> Any:
    try:
        os.kill(os.getpid(), _signal(config))
        while True:
            pass
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        Path(config["folder"], "cleaned").touch()


def _kill_and_swallow(idx: Any, config: dict[str, Any]) -> Any:
    try:
        os.kill(os.getpid(), _signal(config))
        while True:
            pass
    except BaseException:  # noqa: BLE001 (as some users write)
        return 2 * idx


def _kill_and_raise(idx: Any, config: dict[str, Any]) -> Any:
    try:
        os.kill(os.getpid(), _signal(config))
        while True:
            pass
    except BaseException:  # noqa: BLE001 (as some users write)
        raise RuntimeError("the decoder's child process died") from None


def _fork(idx: Any, config: dict[str, Any]) -> Any:
    child = os.fork()
    if child == 0:
        if config["child"] == "exits":
            sys.exit(3)
        if config["child"] == "raises":
            raise ValueError("of the child")
        return "of the child"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _terminate(idx: Any, config: dict[str, Any]) -> Any:
    """Start a child and end it at once, as a pool does."""
    codes = []
    for _ in range(50):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        codes.append(str(child.exitcode))
    return codes


def _lose_child(idx: Any, config: dict[str, Any]) -> Any:
    """A child takes 200 MiB, and is killed."""
    code = "import os; x = b'x' * (200 << 20); os.kill(os.getpid(), 9)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def _threads(idx: Any, config: dict[str, Any]) -> Any:
    return sorted(thread.name for thread in threading.enumerate())


def _leave_no_descriptor(idx: Any, config: dict[str, Any]) -> Any:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
    with contextlib.suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)
    raise ValueError("no more")


def _take_descriptors(idx: Any, config: dict[str, Any]) -> Any:
    """Close all descriptors and open others in their place, as what makes daemons does."""
    os.closerange(3, 64)
    for number in range(config["n_files"]):
        descriptor = os.open(f"{config['folder']}/mine-{number}", os.O_CREAT | os.O_RDWR, 0o600)
        os.write(descriptor, b"mine")
    return 2 * idx


def _set_umask(idx: Any, config: dict[str, Any]) -> Any:
    os.umask(0o777)
    return 2 * idx


def _break_encoding(idx: Any, config: dict[str, Any]) -> Any:
    """What the worker itself needs memory for fails from now on, as far as results go."""

    def no_memory(*args: Any) -> bytes:
        raise MemoryError("cannot allocate 7 GiB")

    result_writer.ResultWriter.add = no_memory  # type: ignore[method-assign,assignment]
    return 2 * idx


def _fill_memory(idx: Any, config: dict[str, Any]) -> Any:
    """Take all memory that a limit leaves, down to the last small objects, and raise.

    With `keeps` they outlive the call, in the environment.
    """
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[0])
    most = pages * resource.getpagesize() + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    held: tuple[Any, ...] = ()
    for size in [*(1 << n for n in range(24, 9, -1)), *range(480, 0, -16)]:
        with contextlib.suppress(MemoryError):
            while True:
                held = (b"x" * size, held)
                config["held"] = held if config.get("keeps") else ()
    raise MemoryError


def _kill_later(idx: Any, config: dict[str, Any]) -> Any:
    return Kill(_signal(config))


def _overtake(idx: Any, config: dict[str, Any]) -> Any:
    """Another worker computes the same task while this item is computed."""
    if not os.environ.get("OVERTAKING"):
        run_worker(Path(config["folder"], "run"), {"OVERTAKING": "1"})
    return 2 * idx


DEEDS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "raise": _raise,
    "chdir": _change_directory,
    "print": _print,
    "close streams": _close_streams,
    "close descriptors": _close_descriptors,
    "loop": _loop,
    "kill": _kill_and_loop,
    "await": _await,
    "await and kill": _await_and_kill,
    "kill and go on": _kill_and_go_on,
    "kill twice": _kill_while_cleaning_up,
    "swallow": _kill_and_swallow,
    "kill and raise": _kill_and_raise,
    "kill later": _kill_later,
    "fork": _fork,
    "terminate": _terminate,
    "lose child": _lose_child,
    "threads": _threads,
    "leave no descriptor": _leave_no_descriptor,
    "take descriptors": _take_descriptors,
    "set umask": _set_umask,
    "no memory": _break_encoding,
    "fill memory": _fill_memory,
    "overtake": _overtake,
    "opaque": lambda idx, config: object(),
}


def write_run(
    store: Store,
    config: dict[str, Any],
    items: Any = range(6),
    *,
    runner: type[BaseRunner] = Work,
    batch_size: int | None = None,
    output_dir: str | None = None,
    **parallel: Any,
) -> RunSpec:
    """Write a run with one submission, as `submit` does, and start nothing."""
    parsed = parse_parallel({"env": "local", **parallel})
    plan = plan_run(
        runner(Setup(config), batch_size=batch_size, output_dir=output_dir),
        plan_items(items),
        parsed,
        this_submitter(sys.executable),
    )
    store.prepare(layout.FOLDERS)
    files = ((layout.shard_name(s.rank), encode(s)) for s in plan.shards(store.locate(layout.RUN)))
    store.create_many(layout.SHARDS, files)
    store.create(layout.RUN, encode(plan.run))
    submit_again(store, plan.run, 1)
    return plan.run


def submit_again(store: Store, run: RunSpec, number: int) -> None:
    """Write the intent of a submission of all shards."""
    parsed = parse_parallel(run.parallel)
    ranks = plan_items(range(run.world_size))
    portion = PlannedSubmission(parsed, make_launcher(parsed, Work), ranks, 1001)
    submission = make_submission(store, run, portion, number=number)
    store.create(layout.submission(number), encode(submission))


def worker_command(run_dir: str | Path, number: int = 1, task: int = 0) -> list[str]:
    """The command of a real worker process."""
    name = ["-P", "-m", "espnet3.worker", str(run_dir), f"{number:04d}", "--task", str(task)]
    return [sys.executable, *name]


def run_worker(
    run_dir: str | Path, environ: dict[str, str] | None = None, number: int = 1, task: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a real worker process to its end."""
    return subprocess.run(
        worker_command(run_dir, number, task),
        env={**os.environ, **(environ or {})},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def records_of(store: Store, event: str) -> list[AttemptRecord]:
    """All attempt records of one kind of event, by rank and time."""
    found = []
    for file in map(layout.parse_attempt_record, store.names(layout.ATTEMPTS)):
        if file is not None and file.event == event:
            path = layout.attempt_record(*file)
            found.append(decode(AttemptRecord, store.read(path), path))
    return sorted(found, key=lambda record: (record.rank, record.time))


def receipt_of(store: Store, rank: int = 0) -> Receipt:
    """A shard's receipt."""
    return decode(Receipt, store.read(layout.receipt(rank)), "receipt")


def result_lines(store: Store, rank: int = 0) -> list[bytes]:
    """All lines of all result files of a shard, in the order of their positions."""
    files = list(map(layout.parse_result, store.names(layout.RESULTS)))
    own = sorted((f for f in files if f is not None and f.rank == rank), key=lambda f: f.first)
    return [line for f in own for line in store.read(layout.result(*f)).splitlines(True)]


def eventually(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError("it did not come to pass")
        time.sleep(0.005)
    return found
