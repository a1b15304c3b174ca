"""A stand-in for a network file system with caches: hosts see late what others did. For tests.

The files are real, on this host; what a `DelayingStore` shows of them depends on a virtual clock.
It behaves as NFS may: names and contents of others come late, or empty at first; listings and sizes
are of a moment ago; who changes a folder sees its names as they are; who opens a file that its
writer has closed sees all of it; an exclusive create is decided at once, by the server.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Literal, NamedTuple

from espnet3.errors import FileMissing
from espnet3.storage.base import MAX_DOCUMENT, AppendFile, Store
from espnet3.storage.local import LocalStore
from espnet3.storage.retry import RetryPolicy

Symptom = Literal["late", "empty"]


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Made(NamedTuple):
    """Who made a file and when, and its sizes since."""

    host: str
    time: float
    sizes: list[tuple[float, int]]
    growing: list[bool]  # of one element: whether its writer has it open


class Server:
    """What all hosts share.

    Args:
        delay: seconds until a host sees what another one did.
        symptom: how a file looks until then.
    """

    def __init__(self, delay: float, symptom: Symptom) -> None:
        self.clock, self.delay, self.symptom = Clock(), delay, symptom
        self.made: dict[str, Made] = {}


class DelayingStore(LocalStore):
    """The run directory as one host sees it."""

    def __init__(self, root: str, server: Server, host: str) -> None:
        super().__init__(root)
        self._server, self._host = server, host
        self._fresh: dict[str, float] = {}  # folder -> when this host looked at it anew
        clock = server.clock
        self.retry = RetryPolicy(sleep=clock.sleep, clock=clock.monotonic)
        self.patience = 60.0

    # --- what this host does ----------------------------------------------------------------------

    def _publish(self, path: str, data: bytes, durable: bool) -> None:
        super()._publish(path, data, durable)
        now = self._server.clock.now
        self._server.made[path] = Made(self._host, now, [(now, len(data))], [False])

    def append(self, path: str) -> AppendFile:
        file = super().append(path)
        now = self._server.clock.now
        made = self._server.made[path] = Made(self._host, now, [(now, 0)], [True])
        return _Growing(file, made, self._server.clock)

    def refresh(self, folder: str) -> None:
        super().refresh(folder)
        self._fresh[folder] = self._server.clock.now

    # --- what it sees -----------------------------------------------------------------------------

    def _is_late(self, path: str) -> bool:
        made = self._server.made.get(path)
        if made is None or made.host == self._host:
            return False
        return self._server.clock.now < made.time + self._server.delay

    def _seen_size(self, path: str) -> int | None:
        """How much of a growing file is seen; None where all of it is."""
        made = self._server.made.get(path)
        if made is None or made.host == self._host or not made.growing[0]:
            return None
        then = self._server.clock.now - self._server.delay
        return max((size for time, size in made.sizes if time <= then), default=0)

    def read(self, path: str, limit: int = MAX_DOCUMENT) -> bytes:
        data = super().read(path, limit)
        if self._is_late(path):
            if self._server.symptom == "late":
                raise FileMissing(self.locate(path))
            return b""
        return data[: self._seen_size(path)]

    def open(self, path: str) -> BinaryIO:
        super().open(path).close()
        made = self._server.made.get(path)
        if made is not None and self._is_late(path) and self._by_name(path):
            data = super().read(path)  # its name came by a listing: opening asks the server
            return io.BytesIO(data[: self._seen_size(path)])
        return io.BytesIO(self.read(path))

    read_beginning = Store.read_beginning  # by `open`, as this host sees it

    def exists(self, path: str) -> bool:
        hidden = self._is_late(path) and self._server.symptom == "late"
        return super().exists(path) and not hidden

    def names(self, folder: str) -> list[str]:
        return [name for name in super().names(folder) if self._is_listed(folder, name)]

    def _is_listed(self, folder: str, name: str) -> bool:
        path = f"{folder}/{name}" if folder else name
        hidden = self._is_late(path) and not self._by_name(path)
        return not hidden or self._server.symptom == "empty"

    def _by_name(self, path: str) -> bool:
        """Whether this host has looked at the folder anew since the file was made."""
        made = self._server.made[path]
        return self._fresh.get(path.rpartition("/")[0], -1.0) >= made.time


class _Growing(AppendFile):
    """Tells the server how the file grows."""

    def __init__(self, file: AppendFile, made: Made, clock: Clock) -> None:
        self._file, self._made, self._clock = file, made, clock

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._made.sizes.append((self._clock.now, self._made.sizes[-1][1] + len(data)))

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
        self._made.growing[0] = False
