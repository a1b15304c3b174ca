"""How much memory a worker says that it has needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import AttemptRecord, WorkerState, decode, encode
from espnet3.storage.base import Store
from espnet3.worker import memory
from espnet3.worker.memory import _V1, _V2, _Files, _of_cgroup, peak_memory
from tests.support.worker_runs import records_of, run_worker, write_run

MIB = 1 << 20
NO_V1_LIMIT = "9223372036854771712"


def _cgroup(root: Path, kind: _Files, name: str, limit: str, peak: str = "") -> None:
    folder = Path(f"{root}{name}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / kind.limit).write_text(f"{limit}\n")
    if peak:
        (folder / kind.peak).write_text(f"{peak}\n")


@pytest.mark.parametrize(
    ("name", "limits", "peak"),
    [
        ("/own", {"/own": ("100", "90")}, 90),
        ("/own", {"/own": ("max", "90")}, None),
        # The job's, above the step's and the task's; not that of all jobs.
        ("/slurm/job_7/step_0/task_0", {"/slurm/job_7": ("100", "80")}, 80),
        ("/slurm/job_7/step_0", {"/slurm/job_7/step_0": ("100", "70"),
                                 "/slurm/job_7": ("100", "80")}, 70),
        ("/slurm/job_7/step_0", {"/slurm": ("100", "80")}, None),
        ("/user.slice/a.scope", {"/user.slice": ("100", "80")}, None),
        ("/", {"/": ("100", "80")}, None),  # the machine's or container's
        ("/own", {"/own": ("100", "")}, None),  # before Linux 5.19
        ("/gone", {}, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [1, 2])
def test_the_cgroup_of_the_job_tells(
    tmp_path: Path,
    name: str,
    limits: dict[str, tuple[str, str]],
    peak: int | None,
    version: int,
) -> None:
    v1 = _V1._replace(folder=str(tmp_path / "v1"))
    v2 = _V2._replace(folder=str(tmp_path / "v2"))
    kind = v1 if version == 1 else v2
    parts = name.strip("/").split("/")
    for n in range(len(parts)):
        if name != "/gone":
            step = "/" + "/".join(parts[: n + 1])
            _cgroup(Path(kind.folder), kind, step, NO_V1_LIMIT if version == 1 else "max", "99")
    for step, (limit, told) in limits.items():
        limit = NO_V1_LIMIT if limit == "max" and version == 1 else limit
        Path(f"{kind.folder}{step}", kind.peak).unlink(missing_ok=True)
        _cgroup(Path(kind.folder), kind, step, limit, told)
    mine = tmp_path / "cgroup"
    mine.write_text(f"5:cpu:/x\n4:memory:{name}\n0::/\n" if version == 1 else f"0::{name}\n")
    assert _of_cgroup(str(mine), v1, v2) == peak


@pytest.mark.parametrize("text", ["", "nonsense", "0::", "4:memory"])
def test_what_cannot_be_read_tells_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "file"
    assert _of_cgroup(str(file)) is None
    file.write_text(text)
    assert _of_cgroup(str(file)) is None
    assert memory._high_water(str(file)) is None


WITHOUT_PROC = """
from espnet3.worker import memory
memory._high_water = lambda: None
print(memory.peak_memory())
"""


def test_without_proc_the_system_tells() -> None:
    told = subprocess.run([sys.executable, "-c", WITHOUT_PROC], stdout=subprocess.PIPE, check=True)
    assert int(told.stdout) > MIB


BUSY_CHILD = """
import subprocess, sys
from espnet3.worker.memory import peak_memory
before = peak_memory()
subprocess.run([sys.executable, "-c", "x = b'x' * (200 << 20)"], check=True)
print(before, peak_memory())
"""


def test_a_child_counts() -> None:
    told = subprocess.run([sys.executable, "-c", BUSY_CHILD], stdout=subprocess.PIPE, check=True)
    before, after = map(int, told.stdout.split())
    assert before < 200 * MIB <= after


def test_the_end_of_an_attempt_says_it(store: Store) -> None:
    write_run(store, {"at": 0, "do": "raise", "trouble": "ValueError"}, n_shards=1)
    run_worker(store.root)
    [started], [failed] = records_of(store, "started"), records_of(store, "failed")
    assert started.peak_memory is None
    assert failed.peak_memory is not None
    assert MIB < failed.peak_memory < (peak_memory() or 0) + 1024 * MIB


def test_a_worker_that_claims_says_it_at_its_signs(store: Store) -> None:
    write_run(store, {}, schedule="dynamic", n_workers=1, n_shards=2)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    run_worker(store.root)
    [name] = store.names(layout.WORKERS)
    state = RunDirectory(store).read(WorkerState, f"{layout.WORKERS}/{name}")
    assert state.ended
    assert state.peak_memory is not None
    assert state.peak_memory > MIB


def test_version_1_says_nothing_of_it(store: Store) -> None:
    write_run(store, {"at": 0, "do": "raise", "trouble": "ValueError"}, n_shards=1)
    run_worker(store.root)
    [failed] = records_of(store, "failed")
    data = encode(failed.model_copy(update={"peak_memory": None, "schema_version": 1}))
    old = decode(AttemptRecord, data.replace(b',"peak_memory":null', b""), "file")
    assert (old.schema_version, old.peak_memory) == (1, None)
