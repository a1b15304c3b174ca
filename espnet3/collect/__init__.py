"""Afterwards: the state of a run, its verified results, its logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.collect.log_files import logs
    from espnet3.collect.merge import Collected, PartialResults, collect, stream
    from espnet3.collect.progress import status, watch
    from espnet3.run_dir.records import ResultRecord
    from espnet3.specs.models import ErrorRecord
    from espnet3.status.run_status import RunStatus, ShardStatus
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "Collected": "espnet3.collect.merge",
            "ErrorRecord": "espnet3.specs.models",
            "PartialResults": "espnet3.collect.merge",
            "ResultRecord": "espnet3.run_dir.records",
            "RunStatus": "espnet3.status.run_status",
            "ShardStatus": "espnet3.status.run_status",
            "collect": "espnet3.collect.merge",
            "logs": "espnet3.collect.log_files",
            "status": "espnet3.collect.progress",
            "stream": "espnet3.collect.merge",
            "watch": "espnet3.collect.progress",
        },
    )

__all__ = [
    "Collected",
    "ErrorRecord",
    "PartialResults",
    "ResultRecord",
    "RunStatus",
    "ShardStatus",
    "collect",
    "logs",
    "status",
    "stream",
    "watch",
]


def __dir__() -> list[str]:
    return __all__
