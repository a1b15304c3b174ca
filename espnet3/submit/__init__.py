"""On the login node: plan, write specs, render and launch jobs; resume; cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from espnet3.submit.cancellation import cancel
    from espnet3.submit.launch import Rendered
    from espnet3.submit.new_run import dry_run, submit
    from espnet3.submit.resumption import resume
    from espnet3.submit.submission import Submitted
else:
    from espnet3._lazy import lazy_names

    __getattr__ = lazy_names(
        __name__,
        {
            "Rendered": "espnet3.submit.launch",
            "Submitted": "espnet3.submit.submission",
            "cancel": "espnet3.submit.cancellation",
            "dry_run": "espnet3.submit.new_run",
            "resume": "espnet3.submit.resumption",
            "submit": "espnet3.submit.new_run",
        },
    )

__all__ = [
    "Rendered",
    "Submitted",
    "cancel",
    "dry_run",
    "resume",
    "submit",
]


def __dir__() -> list[str]:
    return __all__
