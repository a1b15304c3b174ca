"""Nothing counts that was not vouched for: receipts against the plan, bytes against receipts."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, TypeVar

from espnet3.checksums import Checksum
from espnet3.errors import DamagedResult, FileMissing, InvalidFile
from espnet3.run_dir.result_lines import MAX_LINE
from espnet3.specs import layout
from espnet3.specs.models import Receipt, ResultPart, WrittenFile
from espnet3.storage import retry
from espnet3.storage.base import Store
from espnet3.text import counted

PATIENCE = retry.PATIENCE
BLOCK = 1 << 20
IN_MEMORY = 8 << 20  # bytes: a part up to that is read once, a larger one twice
T = TypeVar("T")


def open_verified(store: Store, rank: int, part: ResultPart) -> BinaryIO:
    """Open a part that holds exactly what its receipt vouched for, at its beginning.

    Raises:
        DamagedResult: it does not.
    """
    path = f"{layout.RESULTS}/{part.file}"
    try:
        if part.bytes <= IN_MEMORY:
            data = store.read_beginning(path, part.bytes)
            stream: BinaryIO = io.BytesIO(data)
            beginning: Iterable[bytes] = (data,)
        else:
            stream = store.open(path)
            beginning = blocks(stream, part.bytes)
    except FileMissing:
        raise DamagedResult(store.locate(path), rank, "is missing", store.root) from None
    try:
        problem = mismatch(beginning, part)
        if problem is not None:
            raise DamagedResult(store.locate(path), rank, problem, store.root)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def mismatch(beginning: Iterable[bytes], part: ResultPart) -> str | None:
    """In what a file's beginning is not what its receipt vouched for."""
    found, size, lines = Checksum(), 0, 0
    for block in beginning:
        found.update(block)
        size += len(block)
        lines += block.count(b"\n")
    if size < part.bytes:
        return f"has {counted(size, 'byte')}, but the receipt vouches for {part.bytes}"
    if str(found) != part.checksum:
        return "has changed since its receipt was written"
    if lines != part.records:
        return f"has {counted(lines, 'record')}, but the receipt vouches for {part.records}"
    return None


def find_damage(store: Store, receipt: Receipt) -> dict[str, str]:
    """The result files that are not what a receipt vouches for: name -> what is wrong."""
    found = {}
    for part in receipt.parts:
        try:
            open_verified(store, receipt.rank, part).close()
        except DamagedResult as error:
            found[part.file] = error.problem
    return found


def verify_written(store: Store, receipt: Receipt) -> None:
    """Require that what a receipt says that writers have written is there, byte for byte.

    Raises:
        DamagedResult: names the first file that is not.
    """
    for file, problem in _damage_in_written(store, receipt):
        path = f"{layout.written(receipt.rank, receipt.attempt)}/{file.path}"
        raise DamagedResult(store.locate(path), receipt.rank, problem, store.root)


def find_damage_in_written(store: Store, receipt: Receipt) -> dict[str, str]:
    """The files of writers that are not what a receipt vouches for: path -> what is wrong.

    Paths are relative to the folder of the receipt's attempt.
    """
    return {file.path: problem for file, problem in _damage_in_written(store, receipt)}


def _damage_in_written(store: Store, receipt: Receipt) -> Iterator[tuple[WrittenFile, str]]:
    folder = layout.written(receipt.rank, receipt.attempt)
    for file in () if receipt.written is None else receipt.written.files:
        try:
            with store.open(f"{folder}/{file.path}") as stream:
                problem = difference(stream, file)
        except FileMissing:
            problem = "is missing"
        if problem is not None:
            yield file, problem


def difference(stream: BinaryIO, file: WrittenFile) -> str | None:
    """In what a file is not what was written; None where it is."""
    found, size = Checksum(), 0
    for block in blocks(stream, file.bytes + 1):
        found.update(block)
        size += len(block)
    if size != file.bytes:
        has = f"has {counted(size, 'byte')}" if size < file.bytes else "has more bytes"
        return f"{has}, but the receipt vouches for {file.bytes}"
    if str(found) != file.checksum:
        return "has changed since its receipt was written"
    return None


def blocks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a stream, or what there is of them, in blocks."""
    while size > 0:
        block = stream.read(min(BLOCK, size))
        if not block:
            return
        size -= len(block)
        yield block


def line_blocks(stream: BinaryIO, size: int, where: str) -> Iterator[bytes]:
    """The first `size` bytes of a stream in blocks of whole lines, at most about `IN_MEMORY` each.

    A longer line is a block of its own.

    Args:
        stream: read from where it is.
        size: how many bytes.
        where: what it is, for errors.

    Raises:
        InvalidFile: a line is longer than any line is.
    """
    rest: list[bytes] = []
    held = 0
    while size > 0:
        block = stream.read(min(IN_MEMORY, size))
        if not block:
            break
        size -= len(block)
        end = block.rfind(b"\n") + 1
        if end:
            yield b"".join([*rest, block[:end]])
            rest, held = [], 0
        rest.append(block[end:])
        held += len(rest[-1])
        require_line(held, where)
    if held:
        yield b"".join(rest)


def require_line(size: int, where: str) -> None:
    """Refuse a line of more bytes than any line has.

    Raises:
        InvalidFile: it is one.
    """
    if size > MAX_LINE:
        raise InvalidFile(where, "", f"holds a line of more than {MAX_LINE} bytes")


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that is set at the end, so that no thread goes on after a cancellation."""
    stop = threading.Event()
    try:
        yield stop
    finally:
        stop.set()


def patiently(action: Callable[[], T], patience: float, stop: threading.Event) -> T:
    """Do something that may fail because a network file system shows files late.

    NFS caches attributes and listings for up to a minute, so a receipt may be visible before what
    it speaks of. A mismatch means "not yet" for a while before it means damage.

    Args:
        action: raises DamagedResult, FileMissing or InvalidFile where it is too early.
        patience: seconds before such an error is believed.
        stop: ends the wait at once; the error is raised then.
    """
    late = (DamagedResult, FileMissing, InvalidFile)
    policy = retry.RetryPolicy(sleep=stop.wait, clock=time.monotonic)
    return policy.patiently(action, late, patience)
