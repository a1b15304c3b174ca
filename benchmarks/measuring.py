"""What the benchmarks share: lines of the table, repeated interleaved runs, processes, a Slurm."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.debian import install
from tests.support.slurm_cluster import PROGRAMS, SlurmCluster

ROOT = Path(__file__).resolve().parents[1]
PEAK = Path(__file__).with_name("peak.py")
# Of an enclosing job, of the site's Dask, and what would keep Python from using its bytecode.
FOREIGN = ("SLURM", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "DASK_", "XDG_CONFIG_", "AWS_")
UNWANTED = ("PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "PYTHONPATH")


class NotThere(Exception):
    """A row cannot be run here; the message says what is missing."""


class BenchmarkFailed(Exception):
    """What was to be measured did not do its work."""


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        work: what was done.
        ours: one figure for each run.
        unit: of the figures: s, ms, µs or MB.
        allowed: at most that ratio to the peer, or where there is no peer that figure; None for a
            line that is only for orientation.
        against: what the peer did.
        peer: its figures.
        note: what a reader has to know.
    """

    work: str
    ours: Sequence[float]
    unit: str
    allowed: float | None = None
    against: str = ""
    peer: Sequence[float] = ()
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Our median to the peer's."""
        if not self.peer:
            return None
        return statistics.median(self.ours) / statistics.median(self.peer)

    @property
    def kept(self) -> bool | None:
        """Whether the limit is kept; None where there is none, or no peer to compare with."""
        if self.allowed is None or (self.against and not self.peer):
            return None
        ratio = self.ratio
        return (statistics.median(self.ours) if ratio is None else ratio) <= self.allowed


@dataclass(frozen=True)
class Process:
    """How a process went: wall-clock seconds from spawn to reaped, and its resident peak in MB."""

    seconds: float
    peak: float


class Bench:
    """One go of the benchmarks.

    Args:
        folder: where everything is written; its disk is what is measured.
        peers: an interpreter that has what `peers.txt` names.
        quick: fewer and smaller runs, which only show that everything works.
        most_runs: repeat nothing more often.
    """

    def __init__(
        self, folder: Path, peers: Path, *, quick: bool = False, most_runs: int | None = None
    ) -> None:
        self.folder, self._peers, self.quick = folder, peers, quick
        self._most_runs = 1 if quick else most_runs
        self._end = contextlib.ExitStack()
        self._cluster: SlurmCluster | None = None
        self._folders = 0
        # ext4 without a journal steps over each inode that was freed within the last minutes: after
        # a removal of 10,000 files, making a new one beside them takes up to a millisecond. So our
        # folders are removed at the end, and are spread over the disk, away from those of others.
        with contextlib.suppress(OSError):
            subprocess.run(["chattr", "+T", folder], stderr=subprocess.DEVNULL, check=False)
        home = folder / "home"
        home.mkdir()
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(FOREIGN) and name not in UNWANTED
        } | {"HOME": str(home), "DASK_CONFIG": str(home), "DASK_ROOT_CONFIG": str(home)}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._end.close()

    def runs(self, usual: int) -> int:
        """How often to repeat."""
        return usual if self._most_runs is None else min(usual, self._most_runs)

    def size(self, usual: int) -> int:
        """How much to do."""
        return max(1, usual // 100) if self.quick else usual

    def new_folder(self) -> Path:
        """An empty folder of its own; it is removed at the end of everything."""
        self._folders += 1
        folder = self.folder / f"{self._folders:03d}-{secrets.token_hex(4)}"
        folder.mkdir()
        return folder

    @property
    def peers(self) -> Path:
        """The peers' interpreter.

        Raises:
            NotThere: it was not made.
        """
        if not self._peers.exists():
            raise NotThere(f"{self._peers} is not there; `make bench` makes it")
        return self._peers

    def slurm(self) -> SlurmCluster:
        """A real Slurm on this host, started when first asked for; its partition takes no job.

        So what is submitted stays pending and does not compete with what is measured. Nothing is
        forgotten, and there is room for the jobs of all rows.
        """
        if self._cluster is None:
            install(PROGRAMS)
            settings = {"MaxJobCount": 1_000_000, "MinJobAge": 86400}
            self._cluster = self._end.enter_context(
                SlurmCluster(self.folder / "slurm", cpus=16, config=settings)
            )
            self.environ |= self._cluster.env
            self.hold(True)
        return self._cluster

    def hold(self, held: bool) -> None:
        """Whether submitted jobs stay pending."""
        state = "DOWN" if held else "UP"
        self.slurm().run("scontrol", "update", "PartitionName=main", f"State={state}")

    def cancel_all(self) -> None:
        """Cancel all jobs."""
        cluster = self.slurm()
        cluster.run("scancel", "--quiet", "--partition=main")
        cluster.wait_until_idle()

    def keep(self, closing: contextlib.AbstractContextManager[Any]) -> Any:
        """Enter a context that ends with the benchmarks."""
        return self._end.enter_context(closing)

    def process(self, *command: str | Path, environ: Mapping[str, str] | None = None) -> Process:
        """Run a process in the root folder and wait for its end.

        It is spawned and timed by a small interpreter (`peak.py`), since the resident peak that the
        kernel reports for a process is never less than its parent's size.
        """
        done = subprocess.run(
            [sys.executable, "-I", "-S", PEAK, *map(str, command)],
            cwd="/",
            env={**self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchmarkFailed(f"{command}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        seconds, kilobytes = done.stdout.splitlines()[-1].split()
        return Process(float(seconds), int(kilobytes) / 1024)

    def child(self, function: Callable[..., Any], *arguments: Any) -> dict[str, float]:
        """Call a function of the benchmarks in a process of its own; arguments are JSON.

        Returns:
            What it returned (figures by name), and as `peak` its resident peak in MB.
        """
        name = f"{function.__module__}:{function.__qualname__}"
        command = [sys.executable, "-m", "benchmarks.child", name, json.dumps(arguments)]
        return self._figures(command)

    def submitit(self, *arguments: str | Path) -> dict[str, float]:
        """Run `peer_submitit.py` with the peers' interpreter; returns the figures it prints."""
        script = Path(__file__).with_name("peer_submitit.py")
        return self._figures([str(self.peers), str(script), *map(str, arguments)])

    def _figures(self, command: Sequence[str]) -> dict[str, float]:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise BenchmarkFailed(f"{command}: exit code {done.returncode}\n{done.stderr[-3000:]}")
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures


def interleaved(
    runs: int, **sides: Callable[[], dict[str, float]]
) -> dict[str, dict[str, list[float]]]:
    """Measure the sides in turn (A, B, A, B …), so that what else the machine does hits all.

    Returns:
        Side -> name of the figure -> one value for each run.
    """
    found: dict[str, dict[str, list[float]]] = {side: {} for side in sides}
    for _ in range(runs):
        for side, measure in sides.items():
            for name, value in measure().items():
                found[side].setdefault(name, []).append(value)
    return found


def fill_memory(size: int) -> None:
    """Use memory once, in a process of its own, and free it.

    A virtual machine may give free memory back to its host, which a page cache then waits for page
    by page: up to 0.2 s for 300 MB, on whichever side it meets.

    Args:
        size: bytes, of which each page is written to.
    """
    fill = "import mmap, sys; n = int(sys.argv[1]); m = mmap.mmap(-1, n)"
    fill += "; m[::4096] = bytes(len(range(0, n, 4096)))"
    subprocess.run([sys.executable, "-I", "-S", "-c", fill, str(size)], check=True)


def remove(folder: Path) -> None:
    """Remove a folder of a few large files, outside of what is measured."""
    shutil.rmtree(folder, ignore_errors=True)
