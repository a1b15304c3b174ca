"""A runner's `merge`, called in a process that takes over the submitter's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import orjson

from espnet3.errors import EspnetError, WriterFailed
from espnet3.run_dir.directory import RunDirectory
from espnet3.run_dir.result_lines import unpickle_value
from espnet3.specs.models import RunSpec
from espnet3.text import signal_name
from espnet3.user_code.main_module import main_of

MODULE = "espnet3.worker.merge"
_PATIENCE = 10.0  # seconds for a process that is told to end


async def merge_elsewhere(
    directory: RunDirectory,
    run: RunSpec,
    folders: Mapping[int, Sequence[str]],
    *,
    quiet: bool = False,
) -> Any:
    """Have a process of its own call a runner's `merge`, and wait for it.

    That process ends with this one, however this one ends.

    Args:
        directory: the run directory, which is trusted.
        run: its run.json.
        folders: rank -> paths at which the shard's writers saw its folder, in order.
        quiet: whether what `merge` prints goes to standard error.

    Returns:
        What `merge` returned.

    Raises:
        WriterFailed: `merge` raised, or its process died.
        EspnetError: whatever that process raised on purpose.
    """
    with contextlib.ExitStack() as opened:
        # Files of nobody else: what is in them is believed.
        question, answer = (opened.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        question.write(orjson.dumps([*folders.items()]))
        question.flush()
        alive, end = os.pipe()
        opened.callback(os.close, end)
        files = [question.fileno(), answer.fileno(), alive]
        words = [directory.root, *map(str, files), *([directory.trust] if directory.trust else [])]
        try:
            process = await _started(words, files, quiet)
        finally:
            os.close(alive)
        try:
            code = await process.wait()
        except BaseException:
            await _stop(process)
            raise
        return _answer(answer, code, run)


async def _started(words: list[str], files: list[int], quiet: bool) -> asyncio.subprocess.Process:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
            stream.flush()
    command = [sys.executable, "-P", "-m", MODULE, *words]
    return await asyncio.create_subprocess_exec(
        *command, pass_fds=files, stdout=2 if quiet else None
    )


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a process that nobody waits for any more."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            await process.wait()
            return
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def _answer(file: BinaryIO, code: int, run: RunSpec) -> Any:
    """What the process has handed back.

    Raises:
        EspnetError: what it raised.
        WriterFailed: it handed nothing back.
    """
    file.seek(0)
    data = file.read()
    if not data:
        how = f"exit code {code}" if code >= 0 else signal_name(-code)
        raise WriterFailed("merge", None, f"its process ended by {how}")
    if code != 0:
        error = pickle.loads(data)  # noqa: S301 (a child's of this process)
        raise error if isinstance(error, EspnetError) else TypeError(type(error).__name__)
    return unpickle_value(data, "what merge returned", main_of(run))
