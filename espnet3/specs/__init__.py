"""The contract: persisted models, the run directory's layout, the store, the errors.

This package knows nothing of the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.specs.config import ParallelConfig
    from espnet3.specs.models import (
        AcceptedJobs,
        AttemptRecord,
        Cancellation,
        Receipt,
        RunSpec,
        ShardSpec,
        Submission,
    )
    from espnet3.specs.records import ResultRecord
    from espnet3.specs.store import Store, open_store
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "AcceptedJobs": "espnet3.specs.models",
            "AttemptRecord": "espnet3.specs.models",
            "Cancellation": "espnet3.specs.models",
            "ParallelConfig": "espnet3.specs.config",
            "Receipt": "espnet3.specs.models",
            "ResultRecord": "espnet3.specs.records",
            "RunSpec": "espnet3.specs.models",
            "ShardSpec": "espnet3.specs.models",
            "Store": "espnet3.specs.store",
            "Submission": "espnet3.specs.models",
            "open_store": "espnet3.specs.store",
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
