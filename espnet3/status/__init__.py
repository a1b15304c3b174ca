"""What has become of each shard; used by `collect`, and by `submit` before it resumes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.status.run_status import RunStatus, ShardStatus
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "RunStatus": "espnet3.status.run_status",
            "ShardStatus": "espnet3.status.run_status",
        },
    )

__all__ = [
    "RunStatus",
    "ShardStatus",
]


def __dir__() -> list[str]:
    return __all__
