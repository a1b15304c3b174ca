"""Starting a program that goes on when its starter has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from espnet3.errors import SubmissionRefused


async def start_detached(env: str, what: str, command: Sequence[str]) -> str:
    """Start a program that detaches itself, and prints the pid of its detached process.

    Args:
        env: of the parallel config.
        what: what it is, for a person.
        command: its words.

    Raises:
        SubmissionRefused: it could not be started, or said why it has ended.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        problem = f"no process can be made for the {what}: {error.strerror}"
        raise SubmissionRefused(env, problem) from None
    pid, words = await process.communicate()
    if process.returncode != 0:
        problem = words.decode(errors="replace").strip() or f"the {what} died at its start"
        raise SubmissionRefused(env, problem)
    return pid.decode().strip()
