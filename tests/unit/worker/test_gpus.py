"""What GPUs tell a worker, by a stand-in of NVML and one of torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import decode_line
from espnet3.specs import layout
from espnet3.storage.base import Store
from espnet3.worker import exit_codes, gpus, usage
from espnet3.worker.attempt import Attempt, SchedulerTask
from espnet3.worker.computing import Work
from espnet3.worker.gpus import Busy, GpuWatch, Sample, ask_nvml, ask_torch
from espnet3.worker.main import main
from espnet3.worker.shard import compute_shard
from espnet3.worker.signals import Signals
from espnet3.worker.spare_descriptors import Spare
from espnet3.worker.usage import Meter
from tests.support import stand_in_nvml
from tests.support.stand_in_nvml import Gpu
from tests.support.worker_runs import eventually, receipt_of, records_of, result_lines, write_run

NOWHERE = SchedulerTask(None, None)
A, B, MIG = "GPU-8f3a-11", "GPU-9c00-22", "MIG-3eb8-33"


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    """NVML, of a host with two GPUs."""
    monkeypatch.setitem(sys.modules, "pynvml", stand_in_nvml)
    monkeypatch.setattr(stand_in_nvml, "gpus", [Gpu(A, used=10, busy=30), Gpu(B, used=7, busy=90)])
    return stand_in_nvml


def asked(told: str | None) -> Sample:
    ask = ask_nvml({} if told is None else {"CUDA_VISIBLE_DEVICES": told})
    assert ask is not None
    return ask()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, Sample(10, 0.6)),
        ("0", Sample(10, 0.3)),
        ("1", Sample(7, 0.9)),
        ("1,0", Sample(10, 0.6)),
        (" 1 , 0 ", Sample(10, 0.6)),
        (B, Sample(7, 0.9)),
        ("GPU-9", Sample(7, 0.9)),
        ("1,2,0", Sample(7, 0.9)),  # as CUDA: what stands behind one that is none is not seen
        ("GPU-7,0", Sample()),
        ("", Sample()),
        ("-1", Sample()),
        ("NoDevFiles", Sample()),
    ],
)
def test_only_the_gpus_that_cuda_shows_are_asked(
    nvml: Any, told: str | None, expected: Sample
) -> None:
    assert asked(told) == expected


def test_a_part_of_a_gpu_tells_of_memory_alone(nvml: Any) -> None:
    nvml.gpus.append(Gpu(MIG, used=3, busy=None))
    assert asked(MIG) == Sample(3, None)


def test_one_gpu_that_is_lost_leaves_the_others(nvml: Any) -> None:
    nvml.gpus[0].used, nvml.gpus[0].busy = -1, None
    assert asked(None) == Sample(7, 0.9)


def test_without_a_driver_nobody_is_asked(nvml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml, "without_driver", True)
    assert ask_nvml({}) is None


def test_a_watch_keeps_the_peak_and_the_mean(nvml: Any) -> None:
    watch = GpuWatch(environ={"CUDA_VISIBLE_DEVICES": "0"})
    assert watch.utilisation_since(Busy()) is None
    for used, busy in [(10, 30), (50, 60), (20, 90)]:
        nvml.gpus[0].used, nvml.gpus[0].busy = used, busy
        before = watch.busy
        watch.look()
    assert watch.peak == 50
    assert watch.utilisation_since(Busy()) == pytest.approx(0.6)
    assert watch.utilisation_since(before) == pytest.approx(0.9)


# --- torch ----------------------------------------------------------------------------------------


def torch(*memory: int, initialized: bool = True, busy: int | None = None) -> Any:
    """What a worker asks of torch, with a GPU for each peak of memory."""

    def utilization(gpu: int) -> int:
        if busy is None:
            raise ModuleNotFoundError("pynvml does not seem to be installed")
        return busy

    return SimpleNamespace(
        cuda=SimpleNamespace(
            is_initialized=lambda: initialized,
            device_count=lambda: len(memory),
            max_memory_allocated=lambda gpu: memory[gpu],
            utilization=utilization,
        )
    )


@pytest.mark.parametrize(
    ("loaded", "expected"),
    [
        (torch(5, 9), Sample(9, None)),
        (torch(5, 9, busy=50), Sample(9, 0.5)),
        (torch(5, initialized=False), Sample()),
        (torch(), Sample()),
        (SimpleNamespace(), Sample()),  # it is being imported
        (None, Sample()),
    ],
)
def test_a_loaded_torch_tells(
    monkeypatch: pytest.MonkeyPatch, loaded: Any, expected: Sample
) -> None:
    monkeypatch.setitem(sys.modules, "torch", loaded)
    assert ask_torch() == expected


def test_torch_is_asked_where_there_is_no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # an import of it fails
    watch = GpuWatch(environ={})
    watch.look()
    assert watch.peak is None
    monkeypatch.setitem(sys.modules, "torch", torch(9))  # which comes when a model is built
    watch.look()
    assert watch.peak == 9


def test_torch_is_never_imported() -> None:
    code = "import sys; from espnet3.worker.gpus import GpuWatch; GpuWatch().look()"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


# --- in a worker ----------------------------------------------------------------------------------


def test_a_receipt_says_what_its_gpus_did(nvml: Any, store: Store) -> None:
    run = write_run(store, {}, n_shards=1)
    meter, directory = Meter(), RunDirectory(store)
    watch = meter.gpus = GpuWatch(first=0.001, interval=0.001, environ={})

    def forward(item: int) -> int:
        eventually(lambda: watch.busy.samples > item)
        return 2 * item

    watch.start()
    work = Work(directory, run, forward, {}, Signals(), NOWHERE)
    spare = Spare()
    try:
        assert compute_shard(work, Attempt(directory, run, 0, 1, NOWHERE, 1, spare, meter), [])
    finally:
        spare.give_back()
        watch.stop()
    spent = receipt_of(store).usage
    assert spent is not None
    assert spent.peak_gpu_memory == 10
    assert spent.gpu_utilisation == pytest.approx(0.6)


@pytest.mark.parametrize("schedule", ["static", "dynamic"])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_config_decides_whether_there_is_a_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch, schedule: str, wanted: bool
) -> None:
    monkeypatch.setattr(usage, "GPU_DEVICES", ["/"])
    config = {"at": 0, "do": "threads"}
    write_run(store, config, n_shards=1, schedule=schedule, usage=wanted)
    store.prepare([layout.CLAIMS, layout.WORKERS])
    assert main([store.root, "0001", "--task", "0"]) == exit_codes.DONE
    names = decode_line(result_lines(store)[0], "", unpickle=False).result
    assert ("espnet3-gpus" in names) is wanted


def test_without_a_gpu_there_is_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter()
    monkeypatch.setattr(usage, "GPU_DEVICES", ["/dev/no/such/device"])
    with meter, meter.building():
        pass
    assert meter.gpus is None
    spent = meter.begin().usage()
    assert spent is not None
    assert (spent.peak_gpu_memory, spent.gpu_utilisation) == (None, None)


HANGING = """
import sys, threading, types
from espnet3.worker import gpus, usage
from espnet3.worker.main import main

class Hangs(types.ModuleType):
    def nvmlInit(self):
        open(ASKED, "w").close()
        threading.Event().wait()

ASKED = sys.argv[2]  # before it is that of the submitter
sys.modules["pynvml"] = Hangs("pynvml")
usage.GPU_DEVICES = ["/"]
gpus.GpuWatch.__init__.__defaults__ = (0.001, *gpus.GpuWatch.__init__.__defaults__[1:])
code = main([sys.argv[1], "0001", "--task", "0"])
sys.exit(code)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_driver_that_hangs_keeps_no_worker(store: Store, tmp_path: Path, name: str) -> None:
    """Neither its results nor the signals that end it, nor its end."""
    asked = tmp_path / "asked"
    config = {"at": 3, "do": "await and kill", "signal": name, "file": str(asked)}
    write_run(store, config, n_shards=1)
    command = [sys.executable, "-c", HANGING, store.root, str(asked)]
    done = subprocess.run(command, cwd="/", capture_output=True, timeout=60, check=False)
    assert done.returncode == exit_codes.INTERRUPTED, done.stderr
    [record] = records_of(store, "interrupted")
    assert record.items_done == 3
    assert record.usage is not None
    assert (record.usage.items, record.usage.peak_gpu_memory) == (3, None)


def test_what_is_asked_takes_less_than_half_a_percent_of_a_core() -> None:
    for cost in (0.0, 1e-4, 0.01, 0.1, 3.0):
        assert cost / (gpus.pause_after(cost) + cost) < 0.005
