"""Before anything is queued: can provider and runner be rebuilt from their spec?"""

from __future__ import annotations

import asyncio
import os
import shlex
import tempfile
from pathlib import Path

from espnet3.errors import PreflightError
from espnet3.redaction import scrubbed
from espnet3.run_dir.secrets import remember_run
from espnet3.specs.models import RunSpec, encode
from espnet3.text import one_line
from espnet3.worker import exit_codes


async def preflight(run: RunSpec) -> None:
    """Rebuild provider and runner in a clean process, so that a typo does not cost a night.

    The process runs the recorded interpreter in the root folder and shares nothing with this one.
    The environment itself (dataset, model) is not built.

    Raises:
        PreflightError: they do not import or the provider cannot be constructed.
    """
    remember_run(run)
    with tempfile.TemporaryDirectory(prefix="espnet3-") as folder:
        result = Path(folder, "result")
        flags, at_start = (
            ([], {}) if run.process is None else (run.process.flags, run.process.start_environment)
        )
        words = [*shlex.split(run.python), *flags, "-P"]
        command = [*words, "-m", "espnet3.worker.rebuild_check", str(result)]
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd="/",
                env={**os.environ, **at_start},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise PreflightError(f"{command[0]}: {error.strerror}", "") from None
        printed, _ = await process.communicate(encode(run))
        output = scrubbed(printed.decode(errors="replace"))
        problem = _read(result)
    if problem == "" and process.returncode == 0:
        return
    last = _last_line(output)
    if problem and last and process.returncode == exit_codes.EXITED:
        problem = f"{problem.rpartition(': SystemExit')[0]}: it ended itself and said: {last}"
    raise PreflightError(problem or last or "the check died", output)


def _read(file: Path) -> str | None:
    """What the check found; None where the user's modules ended its process (`os._exit`)."""
    return file.read_text() if file.exists() else None


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return one_line(lines[-1]) if lines else ""
