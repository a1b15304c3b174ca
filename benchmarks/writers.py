"""What it costs that a runner writes its results itself: its hooks beside a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.runs import write_run
from benchmarks.work import NoEnv, Transcribe
from benchmarks.worker import worker_of_task_0


def local_mode(folder: str, n_items: int) -> dict[str, float]:
    """A call of the runner in local mode, after a small one."""
    seconds = 0.0
    for name, count in (("warm-up", 1), ("all", n_items)):
        runner = Transcribe(NoEnv({}), output_dir=Path(folder, name))
        began = time.perf_counter()
        runner(range(count))
        seconds = time.perf_counter() - began
        _require(Path(folder, name, "split.0"), count)
    return {"µs": 1e6 * seconds / n_items}


def plain_loop(folder: str, n_items: int) -> dict[str, float]:
    """The same functions, called with the same arguments in a loop."""
    env = {**NoEnv({}).build_env_local(), "output_dir": folder, "shard_subdir": "", "shard_id": 0}
    began = time.perf_counter()
    writers = Transcribe.open_writers(Path(folder), **env)
    for idx in range(n_items):
        result = Transcribe.forward(idx, **env)
        Transcribe.write_record(writers, result, {}, **env)
    Transcribe.close_writers(writers)
    seconds = time.perf_counter() - began
    _require(Path(folder), n_items)
    return {"µs": 1e6 * seconds / n_items}


def _require(folder: Path, n_lines: int) -> None:
    if (folder / "hyp.scp").read_text(encoding="utf-8").count("\n") != n_lines:
        raise SystemExit("records are missing")


def write_record(bench: Bench) -> list[Line]:
    """100,000 records that a runner's `write_record` writes as lines of text, per record.

    Local mode: a call of the runner, in process, after a first one; manifest, locks and `done`
    included. Detached: the wall clock of a worker process less that of a worker for one record;
    result lines, checksums, syncs and the receipt included. Bare: a loop that calls the same
    `forward` and `write_record` with the same arguments.
    """
    n_items = bench.size(100_000)
    folder = bench.new_folder()

    def side(
        function: Callable[[str, int], dict[str, float]],
    ) -> Callable[[], dict[str, float]]:
        return lambda: bench.child(function, str(bench.new_folder()), n_items)

    sides = {"ours": side(local_mode), "peer": side(plain_loop)}
    for name, size in (("one", 1), ("detached", n_items)):
        write_run(folder / name, size, 1, runner=Transcribe, output_dir=folder / f"{name} output")
        sides[name] = worker_of_task_0(bench, folder / name, 1)
    found = interleaved(bench.runs(15), **sides)
    ours, peer = (found[name]["µs"] for name in ("ours", "peer"))
    pairs = zip(found["detached"]["seconds"], found["one"]["seconds"], strict=True)
    detached = [1e6 * (whole - one) / n_items for whole, one in pairs]
    work, against = f"{n_items:,} records through write_record", "the same calls in a loop"
    return [
        Line(f"{work}, local mode, per record", ours, "µs", 1.2, against, peer),
        Line(f"{work}, detached, per record", detached, "µs", None, against, peer),
    ]
