# The public names, written once: type checkers read them here, and so does `espnet3._lazy`.
from espnet3.async_run import AsyncRun as AsyncRun
from espnet3.errors import *  # noqa: F403 (its `__all__`)
from espnet3.run import Run as Run

__version__: str
