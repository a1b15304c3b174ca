"""How busy the GPUs are that this process sees, asked now and then by a thread.

NVML tells it, by the module `pynvml` of the package nvidia-ml-py, where that can be imported. Else
the torch that the user's code has loaded tells of memory, and of utilisation where it can; torch is
never loaded for it. NVML counts GPUs in the order of the PCI bus, which is CUDA's where all GPUs of
a host are alike or `CUDA_DEVICE_ORDER` says so.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

log = logging.getLogger("espnet3.worker")
FIRST = 1.0  # seconds until GPUs are asked for the first time
INTERVAL = 5.0
_SHARE = 400  # of the time of a core, one part of so many
_JOIN = 1.0  # seconds; a driver that hangs must not keep the worker


class Sample(NamedTuple):
    """What GPUs told at one moment.

    Attributes:
        memory: the most bytes in use on any one of them; None where that is not known.
        utilisation: 0 to 1, the mean over them; likewise.
    """

    memory: int | None = None
    utilisation: float | None = None


class Busy(NamedTuple):
    """A sum of utilisations, and of how many samples."""

    total: float = 0.0
    samples: int = 0


class GpuWatch:
    """Asks the GPUs in a thread, from `start` to `stop`; trouble of the driver is passed over.

    Args:
        first: seconds until they are asked for the first time.
        interval: seconds between two times at least; more where asking takes long.
        environ: where `CUDA_VISIBLE_DEVICES` stands.

    Attributes:
        peak: the most bytes that were seen in use on any one of them; None where nothing told it.
        busy: what was told of their utilisation so far.
    """

    def __init__(
        self,
        first: float = FIRST,
        interval: float = INTERVAL,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.peak: int | None = None
        self.busy = Busy()
        self._first, self._interval, self._environ = first, interval, environ
        self._ask: Callable[[], Sample] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_asking, name="espnet3-gpus", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no room for a thread: results matter more
            log.warning("GPUs are not asked: %s", error)

    def stop(self) -> None:
        """Ask no more."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN)

    def utilisation_since(self, before: Busy) -> float | None:
        """The mean utilisation since `busy` was that; None where nothing told it since."""
        total, samples = self.busy
        n = samples - before.samples
        return min(1.0, max(0.0, (total - before.total) / n)) if n > 0 else None

    def look(self) -> None:
        """Ask once."""
        if self._ask is None:
            self._ask = ask_nvml(self._environ) or ask_torch
        try:
            sample = self._ask()
        except Exception as error:  # noqa: BLE001 (whatever the driver or its module raises)
            log.debug("GPUs do not answer: %s", error)
            return
        if sample.memory is not None:
            self.peak = max(sample.memory, self.peak or 0)
        if sample.utilisation is not None:
            self.busy = Busy(self.busy.total + sample.utilisation, self.busy.samples + 1)

    def _keep_asking(self) -> None:
        pause = self._first
        while not self._closing.wait(pause):
            before = time.thread_time()
            self.look()
            pause = pause_after(time.thread_time() - before, self._interval)


def pause_after(cost: float, interval: float = INTERVAL) -> float:
    """Seconds until GPUs are asked again, where asking took so many CPU seconds.

    Example:
        >>> pause_after(0.001), pause_after(0.1)
        (5.0, 40.0)
    """
    return max(interval, cost * _SHARE)


def ask_nvml(environ: Mapping[str, str]) -> Callable[[], Sample] | None:
    """What asks NVML for the GPUs that this process sees; None where it cannot be asked."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        gpus = visible(nvml, environ.get("CUDA_VISIBLE_DEVICES"))
    except Exception as error:  # noqa: BLE001 (not installed, no driver, another version of it)
        log.debug("no NVML: %s", error)
        return None

    def ask() -> Sample:
        memory, busy = list[int](), list[float]()
        for gpu in gpus:
            with contextlib.suppress(Exception):
                memory.append(int(nvml.nvmlDeviceGetMemoryInfo(gpu).used))
            with contextlib.suppress(Exception):  # a part of a GPU (MIG) does not tell
                busy.append(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        return Sample(max(memory, default=None), sum(busy) / len(busy) if busy else None)

    return ask


def visible(nvml: Any, told: str | None) -> list[Any]:
    """NVML's handles of the GPUs that CUDA shows to this process.

    Args:
        nvml: the module `pynvml`, initialised.
        told: `CUDA_VISIBLE_DEVICES`: numbers or the beginnings of UUIDs; None where it is unset.
            As for CUDA, those behind a name of none are not seen.
    """
    every = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
    if told is None:
        return every
    found: list[Any] = []
    for word in map(str.strip, told.split(",")):
        if word.startswith("MIG-"):
            found.append(nvml.nvmlDeviceGetHandleByUUID(word))
            continue
        fitting = every[int(word) :][:1] if word.isdigit() else _by_uuid(nvml, every, word)
        if not fitting:
            break
        found += fitting
    return found


def _by_uuid(nvml: Any, gpus: list[Any], beginning: str) -> list[Any]:
    if not beginning.startswith("GPU-"):
        return []
    return [gpu for gpu in gpus if _text(nvml.nvmlDeviceGetUUID(gpu)).startswith(beginning)][:1]


def _text(told: str | bytes) -> str:
    return told.decode() if isinstance(told, bytes) else told


def ask_torch() -> Sample:
    """What the loaded torch tells of its GPUs; nothing where none is loaded or uses them."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():
        return Sample()
    gpus, busy = range(cuda.device_count()), list[float]()
    memory = max((int(cuda.max_memory_allocated(gpu)) for gpu in gpus), default=None)
    with contextlib.suppress(Exception):  # it needs modules of its own for that
        busy += [cuda.utilization(gpu) / 100 for gpu in gpus]
    return Sample(memory, sum(busy) / len(busy) if busy else None)
