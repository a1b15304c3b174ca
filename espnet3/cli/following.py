"""`espnet3 logs --follow`: a shard's log as it grows, until nothing of the shard is alive."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from typing import BinaryIO

from espnet3.async_run import AsyncRun
from espnet3.cli.record_output import LogPrinter
from espnet3.cli.show import problem
from espnet3.status.run_status import LIVE, State
from espnet3.storage.permissions import regular

_READ_EVERY = 0.3  # seconds
_ASK_EVERY = 3.0  # seconds between two looks at the shard's state, which may ask the scheduler
_BLOCK = 1 << 16  # bytes


async def follow(run_dir: str, rank: int, *, raw: bool = False) -> bool:
    """Print the newest log of a shard while it grows, and those that follow it.

    Args:
        run_dir: the run directory.
        rank: the shard.
        raw: print the bytes as they are.

    Returns:
        Whether the shard is done in the end.

    Raises:
        EspnetError: there is no such run or shard.
    """
    run, log = AsyncRun(run_dir), _Followed(raw)
    state = await _look(run, rank, log)
    asked = time.monotonic()
    while state in LIVE:
        await asyncio.sleep(_READ_EVERY)
        await asyncio.to_thread(log.read)
        if time.monotonic() - asked > _ASK_EVERY:
            state = await _look(run, rank, log)
            asked = time.monotonic()
    await asyncio.to_thread(log.close)
    if log.path is None:
        problem(f"{run.run_dir}: there is no log of shard {rank} yet")
    return state == "done"


async def _look(run: AsyncRun, rank: int, log: _Followed) -> State:
    """The shard's state; what its log holds by then is printed afterwards."""
    files = await run.logs(rank)  # first, since it says that there is no such shard
    state = (await run.status()).shards.states[rank]
    if state not in LIVE:
        files = await run.logs(rank)
    if files:
        await asyncio.to_thread(log.go_on_with, files[-1])
    await asyncio.to_thread(log.read)
    return state


class _Followed:
    """What is printed of one log after the other."""

    def __init__(self, raw: bool) -> None:
        self.path: str | None = None
        self._raw, self._printer = raw, LogPrinter(raw=raw)
        self._file: BinaryIO | None = None

    def go_on_with(self, path: str) -> None:
        """Go on with another log, where a resume has made one, once this one is printed."""
        if path == self.path:
            return
        if self.path is not None:
            self.close()
            problem(f"{path}: goes on here")
            self._printer = LogPrinter(raw=self._raw)
        self.path, self._file = path, open(path, "rb", opener=regular)  # noqa: SIM115

    def read(self) -> None:
        """Print what was written since the last time; a log that was emptied begins anew."""
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._file.seek(0)
        while block := self._file.read(_BLOCK):
            self._printer.write(block)
        sys.stdout.buffer.flush()

    def close(self) -> None:
        """Print what is left."""
        if self._file is not None:
            self.read()
            self._printer.end()
            self._file.close()
            self._file = None
