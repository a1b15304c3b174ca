"""Running a scheduler's client commands without blocking the event loop."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from espnet3._structs import Struct
from espnet3.errors import SchedulerUnavailable


class Answer(Struct):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


class NoAnswer(SchedulerUnavailable):
    """A command was ended, since it took too long; whether it had an effect is not known."""


async def ask(
    scheduler: str,
    command: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    timeout: float = 60.0,
    shell: bool = False,
    stdin: str | None = None,
) -> Answer:
    """Run a client command to its end.

    Args:
        scheduler: the scheduler's name, for errors.
        command: the words of the command; no shell sees them.
        environ: its environment; this process's where unset.
        timeout: seconds after which it is killed, with whatever it has started.
        shell: the command is one text for a shell.
        stdin: what it reads from its standard input; nothing where unset.

    Raises:
        NoAnswer: it took longer than `timeout`.
        SchedulerUnavailable: the command is not installed.
    """
    import asyncio  # workers, which import the engine, never come here

    options: dict[str, Any] = {
        "stdin": asyncio.subprocess.DEVNULL if stdin is None else asyncio.subprocess.PIPE,
        "stdout": asyncio.subprocess.PIPE,
        "stderr": asyncio.subprocess.PIPE,
        "env": dict(os.environ if environ is None else environ),
        "start_new_session": True,  # sites wrap commands in scripts, which would leave theirs alive
    }
    try:
        if shell:
            process = await asyncio.create_subprocess_shell(command[0], **options)
        else:
            process = await asyncio.create_subprocess_exec(*command, **options)
    except FileNotFoundError:
        raise SchedulerUnavailable(
            scheduler, f"{command[0]} is not on this host's PATH; run this on a login node"
        ) from None
    except OSError as error:
        raise SchedulerUnavailable(scheduler, f"{command[0]}: {error.strerror}") from None
    data = None if stdin is None else stdin.encode()
    try:
        out, err = await asyncio.wait_for(process.communicate(data), timeout)
    except TimeoutError:
        raise NoAnswer(scheduler, f"{command[0]} gave no answer within {timeout:g} s") from None
    finally:
        if process.returncode is None:  # also where the user presses Ctrl-C
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Answer(await process.wait(), out.decode(errors="replace"), err.decode(errors="replace"))
