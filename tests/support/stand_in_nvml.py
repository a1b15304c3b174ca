"""Stands in for `pynvml`, the module of nvidia-ml-py: the few functions of it that workers call.

A test puts it into `sys.modules` by that name, and says what the GPUs are like in `gpus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace


class NVMLError(Exception):
    """As NVML's calls raise it."""


@dataclass
class Gpu:
    """A GPU; `busy` is in percent, None where it does not tell."""

    uuid: str
    used: int = 0
    busy: int | None = 0


gpus: list[Gpu] = []
without_driver = False


def nvmlInit() -> None:  # noqa: N802 (as NVML names it)
    if without_driver:
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(gpus)


def nvmlDeviceGetHandleByIndex(index: int) -> Gpu:  # noqa: N802
    return gpus[index]


def nvmlDeviceGetHandleByUUID(uuid: str) -> Gpu:  # noqa: N802
    for gpu in gpus:
        if gpu.uuid == uuid:
            return gpu
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(gpu: Gpu) -> str:  # noqa: N802
    return gpu.uuid


def nvmlDeviceGetMemoryInfo(gpu: Gpu) -> SimpleNamespace:  # noqa: N802
    if gpu.used < 0:
        raise NVMLError("GPU is lost")
    return SimpleNamespace(total=80 << 30, used=gpu.used)


def nvmlDeviceGetUtilizationRates(gpu: Gpu) -> SimpleNamespace:  # noqa: N802
    if gpu.busy is None:
        raise NVMLError("Not Supported")
    return SimpleNamespace(gpu=gpu.busy, memory=0)
