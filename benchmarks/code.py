"""The user's source files: what a snapshot costs a submitter, and what comparing costs a worker."""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from pathlib import Path

import espnet3.submit
from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.submit import parallel
from espnet3.run_dir.directory import RunDirectory
from espnet3.worker.code import enter_code

_FOLDER = 25  # modules of a package's folder
_FUNCTION = "def function_{n}(a, b={n}):\n    '''Add {n}.'''\n    return a + b * {n}\n\n\n"
_DECODE = """
from espnet3.parallel import BaseRunner, EnvironmentProvider


class Nothing(EnvironmentProvider):
    def build_env_local(self):
        return {}


class Same(BaseRunner):
    @staticmethod
    def forward(idx):
        return idx
"""


def write_project(folder: Path, n_files: int) -> None:
    """A package of that many modules of 4 KB, and a module that imports all."""
    body = "".join(_FUNCTION.format(n=n) for n in range(60))
    names = []
    for i in range(n_files):
        package = folder / "pack" / f"part{i // _FOLDER:03d}"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
        (package / f"module{i:04d}.py").write_text(body)
        names.append(f"import pack.{package.name}.module{i:04d}\n")
    (folder / "pack" / "__init__.py").touch()
    (folder / "bench_decode.py").write_text("".join(names) + _DECODE)


def submit_project_here(project: str, run_dir: str, snapshot: bool) -> dict[str, float]:
    """Submit a run of one shard from a project that has been imported; then compare its files."""
    sys.path.insert(0, project)
    decode = importlib.import_module("bench_decode")

    async def both() -> float:
        runner = decode.Same(decode.Nothing({}))
        config = parallel(1)
        await espnet3.submit.submit(runner, range(1), run_dir=f"{run_dir}.1", parallel=config)
        began = time.perf_counter()
        config = {**config, "snapshot": snapshot}
        await espnet3.submit.submit(runner, range(1), run_dir=run_dir, parallel=config)
        return time.perf_counter() - began

    seconds = asyncio.run(both())
    directory = RunDirectory.open(run_dir)
    run, known = directory.run(), directory.submissions().known
    began = time.perf_counter()
    enter_code(directory, run, known[-1].submission)
    return {"seconds": seconds, "compared": 1000 * (time.perf_counter() - began)}


def snapshot_1000(bench: Bench) -> list[Line]:
    """Submitting a run of one shard whose runner imports 1,000 modules of 4 KB.

    With `snapshot: true` and without, each in a process of its own that has imported the modules
    and made one small submission; preflight off. Beside it what a worker does at its start before
    it imports anything: it compares the checksums of all files, or looks whom the copies belong to.
    """
    bench.slurm()
    n_files = bench.size(1000)
    project = bench.new_folder()
    write_project(project, n_files)

    def side(snapshot: bool) -> dict[str, float]:
        run_dir = str(bench.new_folder() / "run")
        figures = bench.child(submit_project_here, str(project), run_dir, snapshot)
        bench.cancel_all()
        return figures

    found = interleaved(bench.runs(7), kept=lambda: side(True), not_kept=lambda: side(False))
    kept, not_kept = found["kept"], found["not_kept"]
    more = [a - b for a, b in zip(kept["seconds"], not_kept["seconds"], strict=True)]
    work = f"a project of {n_files:,} files"
    return [
        Line(f"submit from {work}", not_kept["seconds"], "s"),
        Line(f"submit from {work}, snapshot: more", more, "s", 1),
        Line(f"a worker compares {work}", not_kept["compared"], "ms", 50),
        Line(f"a worker enters the snapshot of {work}", kept["compared"], "ms", 50),
    ]
