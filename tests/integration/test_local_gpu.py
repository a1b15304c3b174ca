"""`env: local_gpu` in the asynchronous mode, with a stand-in for the list of this host's GPUs.

There is no GPU here: what is shown is which `CUDA_VISIBLE_DEVICES` each worker has.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from espnet3.config.model import ParallelConfig
from espnet3.doctor.diagnosis import diagnose
from espnet3.errors import ConfigError
from espnet3.run import Run, submit_run
from tests.support.helpers import (
    attempts,
    ended,
    files_of,
    locally,
    noted,
    processes_of,
    states,
    submission,
    submit_noting,
    wait_for,
)
from tests.support.runners import GATE, Echo, Shell

pytestmark = pytest.mark.usefixtures("gate_opens_at_last")

VARIABLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture(autouse=True)
def _three_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _stand_in(tmp_path, monkeypatch, "printf '0\\n1\\n2\\n'")


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "nvidia-smi"
    program.parent.mkdir(exist_ok=True)
    asked = '[ "$*" = "--query-gpu=index --format=csv,noheader" ] || exit 6'
    program.write_text(f"#!/bin/sh\n{asked}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.delenv(VARIABLE, raising=False)


def _parallel(**keys: Any) -> dict[str, Any]:
    return {"env": "local_gpu", "async_mode": True, **keys}


def _devices(run: Run) -> dict[int, str]:
    """Rank -> the GPU that its live worker was started with."""
    found = {}
    for shard in run.status().shards:
        for started in attempts(run, shard.rank, "started"):
            environ = Path(f"/proc/{started.pid}/environ").read_bytes().split(b"\0")
            [own] = [v for v in environ if v.startswith(VARIABLE.encode())]
            found[shard.rank] = own.decode().partition("=")[2]
    return found


def test_a_worker_for_each_gpu(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 6, _parallel(), gated=range(6))
    wait_for(lambda: noted(tmp_path, "begun").total() == 3, "three do not begin")
    assert sorted(_devices(run).values()) == ["0", "1", "2"]
    assert submission(run).n_workers == 3
    assert submission(run).scheduler == "local_gpu"
    (tmp_path / GATE).touch()
    assert ended(run).collect() == locally(tmp_path, 6)


def test_tasks_see_their_own(tmp_path: Path) -> None:
    config = _parallel(schedule="dynamic", n_shards=12)
    run = submit_run(Echo(Shell({})), [VARIABLE] * 12, run_dir=tmp_path / "run", parallel=config)
    assert set(ended(run).collect()) <= {"0", "1", "2"}


def test_a_gpu_is_used_again_by_the_next_task(tmp_path: Path) -> None:
    config = _parallel(n_workers=2, n_shards=7)
    run = submit_run(Echo(Shell({})), [VARIABLE] * 7, run_dir=tmp_path / "run", parallel=config)
    seen = Counter(ended(run).collect())
    assert set(seen) == {"0", "1"}
    assert seen.total() == 7


@pytest.mark.parametrize("option", [[2, "GPU-5f1c"], "2,GPU-5f1c"])
def test_gpus_that_the_option_names(tmp_path: Path, option: Any) -> None:
    config = _parallel(options={VARIABLE: option})
    run = submit_noting(tmp_path, 2, config, gated=range(2))
    wait_for(lambda: noted(tmp_path, "begun").total() == 2, "two do not begin")
    assert sorted(_devices(run).values()) == ["2", "GPU-5f1c"]


def test_gpus_that_this_process_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3,1")
    run = submit_noting(tmp_path, 2, _parallel(), gated=range(2))
    wait_for(lambda: noted(tmp_path, "begun").total() == 2, "two do not begin")
    assert sorted(_devices(run).values()) == ["1", "3"]


def test_cancelled_and_resumed(tmp_path: Path) -> None:
    run = submit_noting(tmp_path, 3, _parallel(), gated=range(3))
    wait_for(lambda: noted(tmp_path, "begun").total() == 3, "three do not begin")
    assert set(states(run).values()) == {"running"}
    run.cancel()
    wait_for(lambda: not processes_of(run), "processes live on")
    assert set(states(run).values()) == {"interrupted"}
    (tmp_path / GATE).touch()
    assert run.resume().ranks == [0, 1, 2]
    assert ended(run).collect() == locally(tmp_path, 3)


@pytest.mark.parametrize(
    ("script", "keys", "message"),
    [
        ("exit 9", {}, "parallel.env: 'local_gpu' needs a GPU: no GPU is visible here"),
        ("echo 0", {"n_workers": 2}, "parallel.n_workers: is 2, but 1 GPU is to use"),
        ("echo 0", {"options": {VARIABLE: []}}, f"parallel.options.{VARIABLE}: must be GPUs"),
        ("echo 0", {"options": {VARIABLE: ["0;x"]}}, f"parallel.options.{VARIABLE}: must be GPUs"),
    ],
)
def test_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, keys: Any, message: str
) -> None:
    _stand_in(tmp_path, monkeypatch, script)
    with pytest.raises(ConfigError) as refused:
        submit_noting(tmp_path, 2, _parallel(**keys))
    assert str(refused.value).startswith(message)
    assert files_of(tmp_path / "run") == set()


async def test_doctor(tmp_path: Path) -> None:
    seen = await diagnose(ParallelConfig(env="local_gpu"), tmp_path)
    assert seen.fine, seen.findings
    assert seen.findings[0].value == "local_gpu, GPUs 0, 1, 2"
