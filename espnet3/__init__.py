"""espnet3: submit sharded work from a login node, log out, collect a complete answer later.

Importing this package loads nothing else: it runs before every worker. Public names are resolved
when they are first used.

Example:
    >>> import espnet3
    >>> run = espnet3.Run("/shared/decode")        # doctest: +SKIP
    >>> results = run.collect()                    # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.errors import (
        ClassError,
        ConfigError,
        DamagedResult,
        EnvironmentFailed,
        EspnetError,
        FailedItems,
        FileMissing,
        FileTaken,
        FormatError,
        ForwardFailed,
        IncompleteRun,
        InvalidFile,
        ItemsError,
        NewerFormat,
        NoWorkers,
        PlanMismatch,
        PreflightError,
        RunDirectoryError,
        RunError,
        SchedulerError,
        SchedulerUnavailable,
        StoreError,
        SubmissionRefused,
        TooManyErrors,
        UnserializableResult,
        Untrusted,
        UsageError,
        WorkError,
        WorkersKilled,
    )
    from espnet3.run import Run
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "WorkersKilled": "espnet3.errors",
            "NoWorkers": "espnet3.errors",
            "ClassError": "espnet3.errors",
            "ConfigError": "espnet3.errors",
            "DamagedResult": "espnet3.errors",
            "EnvironmentFailed": "espnet3.errors",
            "EspnetError": "espnet3.errors",
            "FailedItems": "espnet3.errors",
            "FileMissing": "espnet3.errors",
            "FileTaken": "espnet3.errors",
            "FormatError": "espnet3.errors",
            "ForwardFailed": "espnet3.errors",
            "IncompleteRun": "espnet3.errors",
            "InvalidFile": "espnet3.errors",
            "ItemsError": "espnet3.errors",
            "NewerFormat": "espnet3.errors",
            "PlanMismatch": "espnet3.errors",
            "PreflightError": "espnet3.errors",
            "Run": "espnet3.run",
            "RunDirectoryError": "espnet3.errors",
            "RunError": "espnet3.errors",
            "SchedulerError": "espnet3.errors",
            "SchedulerUnavailable": "espnet3.errors",
            "StoreError": "espnet3.errors",
            "SubmissionRefused": "espnet3.errors",
            "TooManyErrors": "espnet3.errors",
            "UnserializableResult": "espnet3.errors",
            "Untrusted": "espnet3.errors",
            "UsageError": "espnet3.errors",
            "WorkError": "espnet3.errors",
        },
    )

__version__ = "0.1.0.dev0"
__all__ = [
    "ClassError",
    "ConfigError",
    "DamagedResult",
    "EnvironmentFailed",
    "EspnetError",
    "FailedItems",
    "FileMissing",
    "FileTaken",
    "FormatError",
    "ForwardFailed",
    "IncompleteRun",
    "InvalidFile",
    "ItemsError",
    "NewerFormat",
    "NoWorkers",
    "PlanMismatch",
    "PreflightError",
    "Run",
    "RunDirectoryError",
    "RunError",
    "SchedulerError",
    "SchedulerUnavailable",
    "StoreError",
    "SubmissionRefused",
    "TooManyErrors",
    "UnserializableResult",
    "Untrusted",
    "UsageError",
    "WorkError",
    "WorkersKilled",
    "__version__",
]


def __dir__() -> list[str]:
    return __all__
