"""What the attempts of this process take: time, CPU, memory, and what its GPUs do meanwhile.

It stands in records that are written anyway, and nothing of it may cost a result: what cannot be
measured is left out.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from espnet3.specs.models import Usage, now
from espnet3.worker.memory import peak_memory

if TYPE_CHECKING:
    from espnet3.worker.gpus import GpuWatch

log = logging.getLogger("espnet3.worker")
# Where there is none of these, no thread is needed: NVIDIA's driver, the one of WSL, AMD's.
GPU_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
FAST = 1e-4  # seconds: what takes less, with all that is done about it, is not clocked alone
_LEAST = 2.0**-30  # seconds; see `Usage.item_seconds`


def cpu_seconds() -> float:
    """CPU seconds of this process, and of its children that were waited for, since it began.

    Example:
        >>> cpu_seconds() > 0
        True
    """
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


class Meter:
    """Measures what the attempts of one process take.

    Args:
        asks_gpus: whether GPUs are asked, where this host has some.
        clock: seconds, for what passes.
        cpu: as `cpu_seconds`.
    """

    def __init__(
        self,
        *,
        asks_gpus: bool = True,
        clock: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = cpu_seconds,
    ) -> None:
        self.clock, self.cpu = clock, cpu
        self.environment_seconds = 0.0
        self.has_told = False
        self.gpus: GpuWatch | None = None
        self._asks_gpus = asks_gpus

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self.gpus is not None:
            self.gpus.stop()

    @contextlib.contextmanager
    def building(self) -> Iterator[None]:
        """While the environment is built; then a thread begins to ask the GPUs, if there are any.

        That ends when this meter, which is to be entered, is left.
        """
        began = self.clock()
        try:
            yield
        finally:
            self.environment_seconds = self.clock() - began
        if self._asks_gpus and any(map(os.path.exists, GPU_DEVICES)):
            from espnet3.worker.gpus import GpuWatch  # what few workers need

            self.gpus = GpuWatch()
            self.gpus.start()

    def begin(self) -> Spent:
        """An attempt begins."""
        return Spent(self)


class Spent:
    """What one attempt has taken so far.

    Attributes:
        items: how many items it is known to have computed.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter, self.items = meter, 0
        self._began, self._began_at, self._cpu_before = now(), meter.clock(), meter.cpu()
        self._busy_before = None if meter.gpus is None else meter.gpus.busy
        self._forward = 0.0
        self._item_seconds: dict[int, int] = {}
        self._clocked: list[float] = []  # seconds of calls since items were counted last
        self._counted_at, self._waited = self._began_at, 0.0

    def clocked(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """`forward`, each call of which is clocked."""
        clock, note = self._meter.clock, self._clocked.append

        def clocked(item: Any, /, **env: Any) -> Any:
            began = clock()
            try:
                result = forward(item, **env)
            except MemoryError:  # to look at a clock takes memory, too
                raise
            except BaseException:
                note(clock() - began)
                raise
            note(clock() - began)
            return result

        return clocked

    def start_clock(self, waited: float) -> None:
        """Items are computed from now on.

        Args:
            waited: seconds that their results have taken to be written, up to now.
        """
        self._counted_at, self._waited = self._meter.clock(), waited

    @property
    def uncounted_seconds(self) -> float:
        """How long ago items were counted."""
        return self._meter.clock() - self._counted_at

    def count(self, items: int, waited: float) -> bool:
        """Count items, of calls that were clocked or, where none was, of what has passed.

        Args:
            items: how many this attempt has computed by now, in all.
            waited: as in `start_clock`.

        Returns:
            Whether they are so fast that the next ones need not be clocked.
        """
        here, new = self._meter.clock(), items - self.items
        passed = max(0.0, here - self._counted_at - (waited - self._waited))
        self._counted_at, self._waited, self.items = here, waited, items
        if self._clocked:
            self._forward += sum(self._clocked)
            for seconds in self._clocked[:new]:  # the last call may have failed
                self._note(seconds, 1)
            self._clocked.clear()
        elif new:
            self._forward += passed
            self._note(passed / new, new)
        return new > 0 and passed / new < FAST

    def _note(self, seconds: float, n: int) -> None:
        power = min(30, math.frexp(max(seconds, _LEAST))[1] - 1)
        self._item_seconds[power] = self._item_seconds.get(power, 0) + n

    def usage(self) -> Usage | None:
        """For the record that says how the attempt ended; None where even that fails."""
        try:
            return self._usage()
        except Exception as error:  # noqa: BLE001 (a measurement must not cost a result)
            log.warning("what this attempt took cannot be said: %s", error)
            return None

    def _usage(self) -> Usage:
        meter, is_first = self._meter, not self._meter.has_told
        meter.has_told = True
        gpus, utilisation = meter.gpus, None
        if gpus is not None and self._busy_before is not None:
            utilisation = gpus.utilisation_since(self._busy_before)
        return Usage(
            began=self._began,
            seconds=_rounded(meter.clock() - self._began_at),
            environment=_rounded(meter.environment_seconds) if is_first else 0.0,
            forward=_rounded(self._forward),
            cpu=_rounded(meter.cpu() - (0.0 if is_first else self._cpu_before)),
            items=self.items,
            item_seconds=sorted(self._item_seconds.items()),
            peak_memory=peak_memory(),
            peak_gpu_memory=None if gpus is None else gpus.peak,
            gpu_utilisation=utilisation,
        )


def _rounded(seconds: float) -> float:
    return round(max(0.0, seconds), 6)
