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
    from espnet3.run import Run
    from espnet3.specs.errors import (
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
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "WorkersKilled": "espnet3.specs.errors",
            "NoWorkers": "espnet3.specs.errors",
            "ClassError": "espnet3.specs.errors",
            "ConfigError": "espnet3.specs.errors",
            "DamagedResult": "espnet3.specs.errors",
            "EnvironmentFailed": "espnet3.specs.errors",
            "EspnetError": "espnet3.specs.errors",
            "FailedItems": "espnet3.specs.errors",
            "FileMissing": "espnet3.specs.errors",
            "FileTaken": "espnet3.specs.errors",
            "FormatError": "espnet3.specs.errors",
            "ForwardFailed": "espnet3.specs.errors",
            "IncompleteRun": "espnet3.specs.errors",
            "InvalidFile": "espnet3.specs.errors",
            "ItemsError": "espnet3.specs.errors",
            "NewerFormat": "espnet3.specs.errors",
            "PlanMismatch": "espnet3.specs.errors",
            "PreflightError": "espnet3.specs.errors",
            "Run": "espnet3.run",
            "RunDirectoryError": "espnet3.specs.errors",
            "RunError": "espnet3.specs.errors",
            "SchedulerError": "espnet3.specs.errors",
            "SchedulerUnavailable": "espnet3.specs.errors",
            "StoreError": "espnet3.specs.errors",
            "SubmissionRefused": "espnet3.specs.errors",
            "TooManyErrors": "espnet3.specs.errors",
            "UnserializableResult": "espnet3.specs.errors",
            "Untrusted": "espnet3.specs.errors",
            "UsageError": "espnet3.specs.errors",
            "WorkError": "espnet3.specs.errors",
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
