"""What tests of real runs share: a config, a submission, waiting, and what workers noted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from espnet3.run import Run, submit_run
from espnet3.specs import layout
from espnet3.specs.models import (
    AcceptedJobs,
    AttemptRecord,
    Receipt,
    Submission,
    decode,
)
from tests.support.runners import Noting, Workshop

ROOT = Path(__file__).parents[2]
LONG = os.environ.get("ESPNET3_LONG_TESTS") == "1"  # all that takes many minutes as well
TINY = {"cores": 1, "memory": "100MB"}  # of the 16 cores that the test cluster claims to have


def each(n: int) -> int:
    """The step through points that are many: every one with ESPNET3_LONG_TESTS=1, else each nth.

    Tests take odd ones that differ, so that what several go through is met at different points.
    """
    return 1 if LONG else n


def parallel(env: str = "slurm", *, options: dict[str, Any] | None = None, **keys: Any) -> Any:
    """A parallel config; for Slurm with a small job.

    Without the preflight, a process for each of the suite's thousands of submissions; the tests
    that are about it, and those of scripts and configs as users write them, have it.
    """
    tiny = TINY if env == "slurm" else {}
    options = {**tiny, **(options or {})}
    return {"env": env, "n_workers": 16, "options": options, "preflight": False, **keys}


def submit_noting(
    folder: Path,
    n_items: int,
    config: dict[str, Any],
    *,
    gated: Iterable[int] = (),
    failing: Iterable[int] = (),
) -> Run:
    """Submit `Noting` into folder/run; the workers note in folder."""
    provider = Workshop({"folder": str(folder), "gated": [*gated], "failing": [*failing]})
    return submit_run(Noting(provider), range(n_items), run_dir=folder / "run", parallel=config)


def locally(folder: Path, n_items: int) -> list[Any]:
    """What `Noting` gives in local mode; its notes go elsewhere."""
    elsewhere = folder / "local-mode"
    elsewhere.mkdir()
    results = Noting(Workshop({"folder": str(elsewhere)}))(range(n_items))
    assert isinstance(results, list)
    return results


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    """Wait for a condition; its absence after that time is an error.

    One that takes long to look at, since it runs a scheduler's commands, is looked at less often,
    or looking would take the processor from the work that is waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        if now > deadline:
            raise AssertionError(f"after {seconds} s: {what}")
        time.sleep(max(0.05, 3 * (now - began)))


def ended(run: Run, seconds: float = 120) -> Run:
    """The run, once nothing of it is queued or running; looked at as rarely as in `wait_for`."""
    began = time.monotonic()
    run.status()
    run.wait(timeout=seconds, interval=max(0.4, 2 * (time.monotonic() - began)))
    return run


def states(run: Run) -> dict[int, str]:
    """Rank -> state."""
    return {shard.rank: shard.state for shard in run.status().shards}


def causes(run: Run) -> dict[int, str]:
    """Rank -> cause."""
    return {shard.rank: shard.cause for shard in run.status().shards}


def noted(folder: Path, name: str) -> Counter[int]:
    """How often each number was noted in a file; none where there is no such file yet."""
    file = folder / name
    return Counter(map(int, file.read_text().split())) if file.exists() else Counter()


def once(items: Iterable[int]) -> Counter[int]:
    """Each of these numbers once."""
    return Counter(items)


def submission(run: Run, number: int = 1) -> Submission:
    """The recorded intent of a submission."""
    path = Path(run.run_dir, layout.submission(number))
    return decode(Submission, path.read_bytes(), str(path))


def jobs(run: Run, number: int = 1) -> AcceptedJobs:
    """The recorded jobs of a submission."""
    path = Path(run.run_dir, layout.accepted_jobs(number))
    return decode(AcceptedJobs, path.read_bytes(), str(path))


def receipt(run: Run, rank: int) -> Receipt:
    """A shard's receipt."""
    path = Path(run.run_dir, layout.receipt(rank))
    return decode(Receipt, path.read_bytes(), str(path))


def attempts(run: Run, rank: int, event: str = "*") -> list[AttemptRecord]:
    """The records of a shard's attempts, oldest first."""
    files = Path(run.run_dir, layout.ATTEMPTS).glob(f"{rank:06d}.*.{event}.json")
    records = [decode(AttemptRecord, file.read_bytes(), str(file)) for file in files]
    return sorted(records, key=lambda record: record.time)


def lines_kept(run: Run, rank: int) -> int:
    """How many whole lines the result files of a shard hold at this moment."""
    files = Path(run.run_dir, layout.RESULTS).glob(f"{rank:06d}.*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def files_of(run_dir: str | os.PathLike[str]) -> set[str]:
    """The names of all files below a folder but Python's caches; none where it does not exist."""
    files = (p for p in Path(run_dir).rglob("*") if p.is_file())
    return {str(p.relative_to(run_dir)) for p in files if p.parent.name != "__pycache__"}


def python(
    *words: str | os.PathLike[str], env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python of its own, as a user at the prompt would, and wait for its end."""
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, **(env or {})},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def collected_elsewhere(run: Run) -> Any:
    """What a new process collects, which knows nothing but the run directory."""
    program = "import sys, json, espnet3; print(json.dumps(espnet3.Run(sys.argv[1]).collect()))"
    done = python("-c", program, run.run_dir, cwd=Path("/"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def processes_of(run: Run) -> list[int]:
    """The processes of this host that work for a run: those that have its directory as a word."""
    return _processes(lambda words: run.run_dir in words)


def processes_below(folder: Path) -> list[int]:
    """Those that have a path below a folder as a word."""
    return _processes(lambda words: any(word.startswith(f"{folder}/") for word in words))


def _processes(are_meant: Callable[[list[str]], bool]) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline", "status"])
        if are_meant(process.info["cmdline"] or [])
        and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


def kill_all(run: Run) -> None:
    """Kill supervisor and workers of this host, as where their host fails."""

    def none_is_left() -> bool:
        for pid in (found := processes_of(run)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_for(none_is_left, "they live on")


def wrap(folder: Path, command: str, script: str) -> str:
    """A PATH on which a shell script stands before a command; `$real` is the command itself."""
    real = shutil.which(command)
    assert real is not None
    wrapper = folder / "bin" / command
    wrapper.parent.mkdir(exist_ok=True)
    wrapper.write_text(f"#!/bin/sh\nreal='{real}'\n{script}\n")
    wrapper.chmod(0o755)
    return f"{wrapper.parent}:{os.environ['PATH']}"
