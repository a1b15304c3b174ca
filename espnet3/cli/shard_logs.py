"""The logs of shards that came to a bad end, and how these logs end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from espnet3.text import one_line

if TYPE_CHECKING:
    from espnet3.run_dir.directory import RunDirectory
    from espnet3.run_dir.submissions import KnownSubmission
    from espnet3.status.run_status import RunStatus, ShardStatus, State

FAILED: tuple[State, ...] = ("failed", "lost", "interrupted")
_MOST = 100  # failures whose logs are looked for
_TAIL = 4096  # bytes


class ShardLog(NamedTuple):
    """A log: its path, and its last line, which is "" where nobody asks for it."""

    path: str
    end: str = ""


NO_LOGS: Mapping[int, ShardLog] = MappingProxyType({})


class ShardLogs:
    """Finds logs by what a status says of shards; each is looked for once."""

    def __init__(self) -> None:
        self._known: dict[ShardStatus, ShardLog | None] = {}
        self._read: tuple[int, RunDirectory, list[KnownSubmission]] | None = None

    def of_failures(self, seen: RunStatus) -> dict[int, ShardLog]:
        """Rank -> log, of the first shards that failed, are lost or were interrupted."""
        ranks = seen.shards.ranks(FAILED)[:_MOST]
        return self.of(seen, [seen.shards[rank] for rank in ranks])

    def of(self, seen: RunStatus, shards: Iterable[ShardStatus]) -> dict[int, ShardLog]:
        """Rank -> log, of some shards; those that have none are left out.

        Args:
            seen: the state of the run.
            shards: of it.
        """
        from espnet3.errors import EspnetError

        found = {}
        for shard in shards:
            if shard.state not in FAILED or shard.submission is None or shard.task is None:
                continue
            if shard not in self._known:
                self._known[shard] = None
                with contextlib.suppress(EspnetError, OSError):  # who looks for it will be told
                    self._known[shard] = self._find(seen.run_dir, shard)
            if (log := self._known[shard]) is not None:
                found[shard.rank] = log
        return found

    def _find(self, run_dir: str, shard: ShardStatus) -> ShardLog | None:
        from espnet3.collect.log_files import log_of_task
        from espnet3.run_dir.directory import RunDirectory

        number = shard.submission or 0
        if self._read is None or self._read[0] < number:
            directory = RunDirectory.open(run_dir)
            self._read = number, directory, directory.submissions().known
        _, directory, submissions = self._read
        for submission, _ in submissions:
            if submission.number == number and shard.task is not None:
                path = log_of_task(directory.store, submission, shard.task)
                if path is not None:
                    return ShardLog(path, _last_line(path) if shard.state == "lost" else "")
        return None


def _last_line(path: str) -> str:
    from espnet3.storage.permissions import regular

    with open(path, "rb", opener=regular) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        lines = file.read(_TAIL).decode("utf-8", "backslashreplace").split("\n")
    return next((one_line(line, 200) for line in reversed(lines) if line.strip()), "")
