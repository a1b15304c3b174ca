"""The contract: what is persisted, and under which names. It knows no storage.

Other names than those of persisted models are from before other packages held them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.specs.models import (
        AcceptedJobs,
        AttemptRecord,
        Cancellation,
        Receipt,
        RunSpec,
        ShardSpec,
        Submission,
    )
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "AcceptedJobs": "espnet3.specs.models",
            "AttemptRecord": "espnet3.specs.models",
            "Cancellation": "espnet3.specs.models",
            "ParallelConfig": "espnet3.config.model",
            "Receipt": "espnet3.specs.models",
            "ResultRecord": "espnet3.run_dir.records",
            "RunSpec": "espnet3.specs.models",
            "ShardSpec": "espnet3.specs.models",
            "Store": "espnet3.storage.base",
            "Submission": "espnet3.specs.models",
            "open_store": "espnet3.storage.opening",
        },
    )

__all__ = [
    "AcceptedJobs",
    "AttemptRecord",
    "Cancellation",
    "ParallelConfig",
    "Receipt",
    "ResultRecord",
    "RunSpec",
    "ShardSpec",
    "Store",
    "Submission",
    "open_store",
]


def __dir__() -> list[str]:
    return __all__
