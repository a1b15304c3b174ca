"""Telling the user that a run is over, by their own command."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from typing import BinaryIO

from espnet3.errors import FileTaken
from espnet3.redaction import scrubbed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.processes import busy_with, is_busy, this_process
from espnet3.specs import layout
from espnet3.specs.finishing import Finished, Notified
from espnet3.specs.models import now
from espnet3.status.finishing import with_a_shard
from espnet3.text import cut, one_line

log = logging.getLogger("espnet3.finish")
# Seconds. With all that a finisher waits for, less than its job has by default.
NOTIFY_TIMEOUT = 300.0
_MARGIN = 30.0  # seconds between an end and its command, and between that and the note of it
_LOOK = 1.0  # seconds between two looks for that note
_MOST_OUTPUT = 1 << 16  # bytes that are kept of what a command prints, the last ones
_LONGEST = 2000  # characters of the words


async def notify(
    directory: RunDirectory, end: Finished, command: str | None, mine: int, folder: str
) -> None:
    """Run the user's command, once for each end unless this process dies meanwhile.

    Args:
        directory: the run directory.
        end: what is over.
        command: for a shell; None for none.
        mine: the number of this finisher. Whoever decided the end runs the command, so another
            one waits until that has, or cannot be at it any more.
        folder: where the command is run, if that is there.

    Raises:
        StoreError: that it was run cannot be written down.
    """
    if command is None:
        return
    if end.finisher != mine:
        await _wait_for_other(directory, end)
    word = layout.notified(end.number)
    if await asyncio.to_thread(directory.store.exists, word):
        return
    environ = {
        **os.environ,
        "ESPNET3_RUN_DIR": directory.root,
        "ESPNET3_OUTCOME": end.outcome,
        "ESPNET3_WORDS": one_line(scrubbed(with_a_shard(end)), _LONGEST),
        "ESPNET3_RESULTS": end.results or "",
        "ESPNET3_FINISHED": directory.store.locate(layout.finished(end.number)),
    }
    with busy_with(word):
        code, output = await run_command(command, environ, folder)
        if code:
            log.error("notify: exit code %d: %s", code, one_line(output, 300))
        record = Notified(
            number=end.number,
            created=now(),
            by=this_process(),
            exit_code=code,
            output=cut(scrubbed(output)),
        )
        with contextlib.suppress(FileTaken):
            await asyncio.to_thread(directory.publish, record)


async def _wait_for_other(directory: RunDirectory, end: Finished) -> None:
    """Wait while the finisher that decided an end may be running the command."""
    path, began, longest = layout.notified(end.number), time.monotonic(), NOTIFY_TIMEOUT + _MARGIN
    while time.monotonic() - began < longest:
        # By two clocks, on another host; so it is this one's that bounds the wait.
        is_late = (now() - end.created).total_seconds() > longest
        alive = is_busy(end.by, path)
        if alive is False or (alive is None and is_late):
            return
        if await asyncio.to_thread(directory.store.exists, path):
            return
        await asyncio.sleep(_LOOK)


async def run_command(
    command: str, environ: Mapping[str, str], folder: str, timeout: float = NOTIFY_TIMEOUT
) -> tuple[int, str]:
    """Run a command of the user's in a shell.

    What it leaves in the background goes on; where it takes too long, all of it is killed.

    Args:
        command: the shell's.
        environ: its environment.
        folder: where it is run; that of this process, where there is no such folder.
        timeout: seconds.

    Returns:
        Its exit code, and the end of what it printed.
    """
    is_there = await asyncio.to_thread(os.path.isdir, folder)
    # Not a pipe: who is in the background may hold one open for ever.
    with _output_file() as printed:
        try:
            process = await asyncio.create_subprocess_shell(
                command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=asyncio.subprocess.STDOUT,
                env=environ,
                cwd=folder if is_there else None,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return 127, f"cannot be started: {one_line(str(error))}"
        try:
            async with asyncio.timeout(timeout):
                code, words = await process.wait(), ""
        except TimeoutError:
            _kill(process.pid)
            await process.wait()
            code, words = 124, f"did not end within {timeout:g} s\n"
        except BaseException:
            _kill(process.pid)
            raise
        return code, words + await asyncio.to_thread(_end_of, printed)


def _output_file() -> BinaryIO:
    try:
        return tempfile.TemporaryFile()
    except OSError:  # a full disk is no reason to tell nobody
        return open(os.devnull, "w+b")


def _kill(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _end_of(file: BinaryIO) -> str:
    if not file.seekable():
        return ""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _MOST_OUTPUT))
    return file.read(_MOST_OUTPUT).decode(errors="replace")
