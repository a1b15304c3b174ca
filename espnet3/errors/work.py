"""Errors of the user's own code, met while items were computed."""

from __future__ import annotations

from typing import Any

from espnet3.errors.base import EspnetError
from espnet3.text import counted, one_line


class WorkError(EspnetError):
    """The user's own code failed while items were computed."""


class EnvironmentFailed(WorkError):
    """The provider raised while it built the environment."""


class ForwardFailed(WorkError):
    """`forward` raised at `item`; `error` is `Type: message` of the exception."""

    def __init__(self, item: Any, error: str) -> None:
        self.item, self.error = item, error
        super().__init__(f"forward failed at item {one_line(repr(item), 120)}: {error}")


class WriterFailed(WorkError):
    """A hook of the runner that writes results raised: its files are of no use.

    Attributes:
        hook: its name.
        item: the item whose result was written; None where the hook is for a whole shard.
        error: `Type: message` of the exception.
    """

    def __init__(self, hook: str, item: Any, error: str) -> None:
        self.hook, self.item, self.error = hook, item, error
        at = "" if item is None else f" at item {one_line(repr(item), 120)}"
        super().__init__(f"{hook} failed{at}: {error}")


class UnserializableResult(WorkError):
    """`forward` returned what the result format cannot hold exactly.

    Attributes:
        item: the item.
        type_name: the type that cannot be held.
    """

    def __init__(self, item: Any, type_name: str, problem: str, stored_as: str = "JSON") -> None:
        self.item, self.type_name = item, type_name
        or_else = ", or set `results: pickle`" if stored_as == "JSON" else ""
        super().__init__(
            f"the result of item {one_line(repr(item), 120)} cannot be stored as {stored_as}: "
            f"{one_line(problem)}; return plain JSON values{or_else}"
        )


class TooManyErrors(WorkError):
    """More items of a shard failed than `max_errors` allows.

    Attributes:
        rank: the shard.
        max_errors: the limit.
        count: how many failed.
        item: the last of them, or None where all of them failed in earlier attempts.
    """

    def __init__(
        self, rank: int, max_errors: int, count: int, item: Any = None, error: str = ""
    ) -> None:
        self.rank, self.max_errors, self.count, self.item = rank, max_errors, count, item
        items = counted(count, "item")
        last = f" (the last is {one_line(repr(item), 120)}: {one_line(error)})" if error else ""
        super().__init__(
            f"{items} of shard {rank} failed, and max_errors is {max_errors}{last}; fix the "
            "cause and resume with `--items failed`, or resume with a larger `--set max_errors=N`"
        )


class WorkersKilled(WorkError):
    """An `item` keeps killing the Dask workers that compute it, `worker` the last of them."""

    def __init__(self, item: Any, worker: str) -> None:
        self.item, self.worker = item, worker
        super().__init__(
            f"item {one_line(repr(item), 120)} killed every worker that computed it, most "
            f"recently {worker}; it may need more memory, or crash in native code"
        )
