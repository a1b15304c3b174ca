"""What users subclass and call. Light to import: a user's runner module is on a worker's path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.config.model import ParallelConfig
    from espnet3.parallel.base_runner import BaseRunner
    from espnet3.parallel.config import get_parallel_config, set_parallel
    from espnet3.parallel.env_provider import EnvironmentProvider
    from espnet3.parallel.inference_provider import InferenceProvider
    from espnet3.parallel.parallel import (
        DictReturnWorkerPlugin,
        get_client,
        make_client,
        make_local_gpu_cluster,
        parallel_for,
        parallel_map,
        wrap_func_with_worker_env,
    )
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "BaseRunner": "espnet3.parallel.base_runner",
            "DictReturnWorkerPlugin": "espnet3.parallel.parallel",
            "EnvironmentProvider": "espnet3.parallel.env_provider",
            "InferenceProvider": "espnet3.parallel.inference_provider",
            "ParallelConfig": "espnet3.config.model",
            "get_client": "espnet3.parallel.parallel",
            "get_parallel_config": "espnet3.parallel.config",
            "make_client": "espnet3.parallel.parallel",
            "make_local_gpu_cluster": "espnet3.parallel.parallel",
            "parallel_for": "espnet3.parallel.parallel",
            "parallel_map": "espnet3.parallel.parallel",
            "set_parallel": "espnet3.parallel.config",
            "wrap_func_with_worker_env": "espnet3.parallel.parallel",
        },
    )

__all__ = [
    "BaseRunner",
    "DictReturnWorkerPlugin",
    "EnvironmentProvider",
    "InferenceProvider",
    "ParallelConfig",
    "get_client",
    "get_parallel_config",
    "make_client",
    "make_local_gpu_cluster",
    "parallel_for",
    "parallel_map",
    "set_parallel",
    "wrap_func_with_worker_env",
]


def __dir__() -> list[str]:
    return __all__
