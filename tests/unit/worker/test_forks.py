"""Children of the worker: what they get of its signals, and that neither loses one by a fork."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.run_dir.result_lines import decode_line
from espnet3.storage.base import Store
from espnet3.worker import exit_codes
from tests.support.worker_runs import receipt_of, result_lines, run_worker, write_run

# Hooks that are known before ours run while ours have the signals blocked.
BEGINNING = """
import os, signal, subprocess, sys, threading, time
from espnet3.worker.signals import Interrupted, Signals

def hit(number):
    os.kill(os.getpid(), number)

def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def blocked():
    return [line.split()[1] for line in open("/proc/self/status") if line.startswith("SigBlk")][0]
"""


def said(script: str) -> str:
    done = subprocess.run(
        # Where a user's module forks, nobody hears that it has threads; a __main__ is told.
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGINNING + script],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.strip()


def test_children_that_are_ended_at_once_end(store: Store) -> None:
    write_run(store, {"do": "terminate", "at": 2})
    done = run_worker(store.root)
    assert done.returncode == exit_codes.DONE, done.stderr
    assert decode_line(result_lines(store)[2], "").result == ["-15"] * 50
    assert receipt_of(store).records == 6


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP"])
@pytest.mark.parametrize("by", ["main", "thread"])
def test_a_signal_that_comes_while_the_child_is_made_ends_it(name: str, by: str) -> None:
    script = f"""
os.register_at_fork(after_in_child=lambda: hit(signal.{name}))

def fork():
    child = os.fork()
    if child == 0:
        os._exit(0)
    print(ended(child) == -signal.{name})

with Signals() as signals:
    signals.armed = True
    if {by!r} == "main":
        fork()
    else:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    print(signals.received, signals.armed)
"""
    assert said(script) == "True\nNone True"


def test_what_a_handler_raises_in_the_child_is_raised_where_it_was_forked() -> None:
    script = """
os.register_at_fork(after_in_child=lambda: hit(signal.SIGINT))
with Signals():
    try:
        child = os.fork()
        if child == 0:
            os._exit(0)
    except KeyboardInterrupt:
        os._exit(5)
    print(ended(child))
"""
    assert said(script) == "5"


@pytest.mark.parametrize("armed", [True, False])
@pytest.mark.parametrize("taker", ["main", "thread"])
def test_a_signal_that_comes_while_the_parent_forks_is_not_swallowed(
    armed: bool, taker: str
) -> None:
    """What is raised in a hook is ignored; so it has to be raised behind the fork."""
    script = f"""
def hit_me():
    hit(signal.SIGUSR1)
    if {taker!r} == "thread":  # which has it not blocked, so that the handler runs at once
        other.set()
        given_up = time.monotonic() + 10
        while signals.received is None and time.monotonic() < given_up:
            pass

other = threading.Event()
if {taker!r} == "thread":
    threading.Thread(target=other.wait, daemon=True).start()
os.register_at_fork(before=hit_me)
with Signals() as signals:
    signals.armed = {armed}
    try:
        if os.fork() == 0:
            os._exit(0)
        print("went on", signals.received)
    except Interrupted as signal_name:
        print("raised", signal_name)
    print(blocked())
"""
    expected = "raised SIGUSR1" if armed else "went on SIGUSR1"
    assert said(script).splitlines() == [expected, "0" * 16]


def test_a_fork_that_fails_leaves_nothing_blocked() -> None:
    script = """
import resource
os.register_at_fork(before=lambda: None)
with Signals() as signals:
    signals.armed = True
    if os.getuid() == 0:
        os.setresuid(65534, 65534, 65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    try:
        os.fork()
    except BlockingIOError:
        print(blocked(), signals.armed)
"""
    assert said(script) == "0" * 16 + " True"


def test_no_child_has_a_signal_blocked_or_a_handler_of_the_worker() -> None:
    script = """
import multiprocessing
show = [sys.executable, "-c", "print([l.split()[1] for l in open('/proc/self/status') "
        "if l.startswith(('SigBlk', 'SigCgt'))])"]

def look():
    caught = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)]
    print(blocked(), set(caught) == {signal.SIG_DFL},
          signal.getsignal(signal.SIGINT) is signal.default_int_handler, flush=True)

if __name__ == "__main__":
    sys.stdout.flush()
    subprocess.run(show, check=True)
    with Signals() as signals:
        signals.armed = True
        for extra in ({}, {"preexec_fn": lambda: None}, {"close_fds": False}):
            subprocess.run(show, check=True, **extra)
        os.waitpid(os.posix_spawn(sys.executable, show, os.environ), 0)
        os.system(" ".join([show[0], "-c", chr(34) + show[2] + chr(34)]))
        child = multiprocessing.get_context("fork").Process(target=look)
        child.start()
        child.join()
"""
    *programs, forked = said(script).splitlines()
    assert len(programs) == 6
    assert len(set(programs)) == 1  # as without the worker's signals
    assert "0000000000000000" in programs[0]
    assert forked == "0000000000000000 True True"


def test_handlers_of_the_users_code_are_left_to_its_children_and_theirs() -> None:
    script = """
def mine(number, frame):
    os._exit(7)

with Signals():
    signal.signal(signal.SIGUSR1, mine)
    child = os.fork()
    if child == 0:
        if signal.getsignal(signal.SIGUSR1) is not mine:
            os._exit(1)
        signal.signal(signal.SIGTERM, mine)
        grandchild = os.fork()
        if grandchild == 0:
            hit(signal.SIGTERM)
            os._exit(2)
        os._exit(ended(grandchild))
    print(ended(child))
"""
    assert said(script) == "7"


def test_a_fork_pool_in_forward(tmp_path: Path) -> None:
    script = tmp_path / "pools.py"
    script.write_text(POOLS)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("True\n", "")


POOLS = """
import multiprocessing, sys
from espnet3.parallel import BaseRunner, EnvironmentProvider, set_parallel

class Nothing(EnvironmentProvider):
    def build_env_local(self):
        return {}

class Pools(BaseRunner):
    @staticmethod
    def forward(idx):
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [idx, 3])[0]

if __name__ == "__main__":
    set_parallel({"env": "local", "n_shards": 1})
    run = Pools(Nothing({}), async_mode=True, run_dir=sys.argv[1])(range(25))
    run.wait(interval=0.1, timeout=200)
    print(run.collect() == list(range(25)))
"""
