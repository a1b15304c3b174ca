"""The login node's commands on runs of several sizes: memory, CPU time, the scheduler's commands.

Each command runs in a process of its own, beside a real Slurm whose jobs stay pending.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import espnet3.collect
import espnet3.submit
from benchmarks.measuring import Bench
from benchmarks.runs import fail_shard, finish_shards, write_run
from benchmarks.submit import parallel
from benchmarks.work import NoEnv, Trivial
from tests.support.helpers import wrap

SHARDS = (100, 1000, 10_000)
ITEMS = (10_000, 100_000, 1_000_000)
IN_FILES = (1_000_000, 3_000_000, 5_000_000, 10_000_000)  # files above 8 MB are read in blocks
NAME = "1089-134686-0000"  # of an utterance, as LibriSpeech has them
COMMANDS = ("sbatch", "squeue", "sacct", "scontrol", "scancel")
Figures = dict[str, float]


def _timed(coroutine: Callable[[], Coroutine[Any, Any, Any]]) -> Figures:
    """Wall-clock and CPU seconds of a coroutine; CPU with that of the commands that it ran."""
    began, cpu = time.perf_counter(), _cpu()
    asyncio.run(coroutine())
    return {"seconds": time.perf_counter() - began, "cpu": _cpu() - cpu}


def _cpu() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def submit_here(run_dir: str, n_shards: int) -> Figures:
    """Submit a run of one item per shard."""
    runner, config = Trivial(NoEnv({})), parallel(n_shards)
    return _timed(
        lambda: espnet3.submit.submit(runner, range(n_shards), run_dir=run_dir, parallel=config)
    )


def submit_names_here(run_dir: str, n_items: int) -> Figures:
    """Submit a list of names in ten shards."""
    runner, config = Trivial(NoEnv({})), parallel(10)
    names = [f"{NAME}-{i:08d}" for i in range(n_items)]
    return _timed(lambda: espnet3.submit.submit(runner, names, run_dir=run_dir, parallel=config))


def status_here(run_dir: str) -> Figures:
    """Ask for the status."""
    return _timed(lambda: espnet3.collect.status(run_dir))


def resume_here(run_dir: str) -> Figures:
    """Resume."""
    return _timed(lambda: espnet3.submit.resume(run_dir))


def to_file_here(run_dir: str, output: str) -> Figures:
    """Collect to a file."""
    return _timed(lambda: espnet3.collect.collect(run_dir, output))


def to_list_here(run_dir: str) -> Figures:
    """Collect to a list."""
    return _timed(lambda: espnet3.collect.collect(run_dir))


class Login:
    """Measures the login node's commands, each in a process of its own."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        bench.slurm()
        self._calls = bench.new_folder()
        for command in COMMANDS:
            note = f'echo {command} >>"{self._calls}/log"; exec "$real" "$@"'
            bench.environ["PATH"] = wrap(self._calls, command, note)
        self.rows: dict[str, dict[int, list[Figures]]] = {}

    def measure(self, row: str, n: int, function: Callable[..., Figures], *arguments: Any) -> None:
        """Note a command's figures, and the scheduler's commands that it ran."""
        log = self._calls / "log"
        log.write_text("")
        figures = self.bench.child(function, *arguments)
        for command, count in Counter(log.read_text().split()).items():
            figures[command] = count
        print(f"  {row} of {n:,}: {figures}", file=sys.stderr)
        self.rows.setdefault(row, {}).setdefault(n, []).append(figures)

    def one_run(self, n_shards: int) -> None:
        """A run's life, in which its first shard fails."""
        folder = self.bench.new_folder()
        run_dir = folder / "run"
        where = str(run_dir)
        self.measure("submit", n_shards, submit_here, where, n_shards)
        self.measure("status, all queued", n_shards, status_here, where)
        self.bench.cancel_all()
        finish_shards(run_dir, range(1, n_shards))
        fail_shard(run_dir, 0)
        self.measure("resume of one", n_shards, resume_here, where)
        self.bench.cancel_all()
        finish_shards(run_dir, [0])
        self.measure("status, all done", n_shards, status_here, where)
        self.measure("collect to a file", n_shards, to_file_here, where, str(folder / "all"))
        self.measure("collect to a list", n_shards, to_list_here, where)

    def results(self, n_items: int) -> None:
        """Collecting many items in ten shards."""
        folder = self.bench.new_folder()
        run_dir = folder / "run"
        write_run(run_dir, n_items, 10)
        finish_shards(run_dir, range(10))
        where, output = str(run_dir), str(folder / "all")
        if n_items in IN_FILES:
            self.measure("collect to a file, by items", n_items, to_file_here, where, output)
        if n_items in ITEMS:
            self.measure("collect to a list, by items", n_items, to_list_here, where)

    def names(self, n_items: int) -> None:
        """Submitting a list of names in ten shards."""
        folder = self.bench.new_folder()
        names = str(folder / "names")
        self.measure("submit a list of names, by items", n_items, submit_names_here, names, n_items)
        self.bench.cancel_all()

    def ladders(self) -> dict[str, Any]:
        """Row -> figure -> the smallest that was seen at each size, which disturbs least."""
        return {
            row: {"x": list(sizes)}
            | {
                name: [min(f.get(name, 0) for f in figures) for figures in sizes.values()]
                for name in sorted({name for f in sizes.values() for each in f for name in each})
            }
            for row, sizes in self.rows.items()
        }


def ladders(folder: Path) -> dict[str, Any]:
    """Row -> figure -> its values at SHARDS or ITEMS."""
    with Bench(folder, Path("none")) as bench:
        here = Login(bench)
        for n_shards in (*SHARDS, *SHARDS, *SHARDS[:2]):
            here.one_run(n_shards)
        for n_items in (*ITEMS, *ITEMS):
            here.names(n_items)
        for n_items in sorted([*ITEMS, *ITEMS, *{*IN_FILES} - {*ITEMS}]):
            here.results(n_items)
        return here.ladders()
