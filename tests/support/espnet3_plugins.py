"""A worker plugin as it is written for ESPnet3, and what Dask workers call in its environment."""

from __future__ import annotations

from typing import Any

from distributed import get_worker

from espnet3.parallel.parallel import DictReturnWorkerPlugin


class WithMore(DictReturnWorkerPlugin):
    """Adds to the environment, which is there when the base's `setup` has returned."""

    def setup(self, worker: Any) -> None:
        super().setup(worker)
        worker.plugins["env"]["more"] = 5


def with_more(element: int, offset: int, more: int) -> int:
    return element + offset + more


def plugin_env(element: int) -> list[str]:
    env: Any = get_worker().plugins["env"]
    return [*env]
