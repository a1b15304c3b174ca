"""What it costs that a runner writes its results itself: its hooks beside a plain loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring import Bench, Line, interleaved
from benchmarks.work import NoEnv, Transcribe


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

    Ours: a call of the runner in local mode, in process, after a first one; manifest, locks and
    `done` included. Bare: a loop that calls the same `forward` and `write_record` with the same
    arguments.
    """
    n_items = bench.size(100_000)

    def side(
        function: Callable[[str, int], dict[str, float]],
    ) -> Callable[[], dict[str, float]]:
        return lambda: bench.child(function, str(bench.new_folder()), n_items)

    found = interleaved(bench.runs(15), ours=side(local_mode), peer=side(plain_loop))
    ours, peer = (found[name]["µs"] for name in ("ours", "peer"))
    work = f"{n_items:,} records through write_record, local mode, per record"
    return [Line(work, ours, "µs", 1.2, "the same calls in a loop", peer)]
