"""Before anything is queued: can provider and runner be rebuilt from their spec?"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet3.errors import PreflightError
from espnet3.redaction import scrubbed
from espnet3.run_dir.secrets import remember_run
from espnet3.specs.models import RunSpec, encode
from espnet3.submit.process_record import warn_not_taken_over
from espnet3.text import one_line
from espnet3.user_code.plain_attributes import decode_held, differences, plain_attributes
from espnet3.user_code.sources import Source
from espnet3.worker import exit_codes

_MANY = 5  # warnings


async def preflight(run: RunSpec, provider: Any = None, *, build: bool = False) -> list[Source]:
    """Rebuild provider and runner in a clean process, so that a typo does not cost a night.

    The process runs the recorded interpreter in the root folder and shares nothing with this one.
    The environment itself (dataset, model) is built only where that is asked for. Where the
    provider that was made there holds other plain values than this one, a `NotTakenOver` names
    them: its constructor has them from elsewhere (a counter, say, or a random number).

    Args:
        run: what is about to be submitted.
        provider: the submitter's, to compare with; None for a run whose submitter has ended.
        build: build the environment as well (`preflight: build`), so that a wrong path is found.

    Returns:
        The user's source files that were loaded there.

    Raises:
        PreflightError: they do not import, the provider cannot be constructed, or its environment
            not be built.
    """
    remember_run(run)
    with tempfile.TemporaryDirectory(prefix="espnet3-") as folder:
        result = Path(folder, "result")
        flags, at_start = (
            ([], {}) if run.process is None else (run.process.flags, run.process.start_environment)
        )
        words = [*shlex.split(run.python), *flags, "-P"]
        command = [*words, "-m", "espnet3.worker.rebuild_check", str(result)]
        command += ["build"] if build else []
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
        held = _read(Path(f"{result}.held"))
        sources = _read(Path(f"{result}.sources"))
    if problem == "" and process.returncode == 0 and sources is not None:
        if provider is not None and held is not None:
            _warn_of(await asyncio.to_thread(_made_otherwise, provider, held))
        return [Source(*each) for each in json.loads(sources)]
    last = _last_line(output)
    if problem and last and process.returncode == exit_codes.EXITED:
        problem = f"{problem.rpartition(': SystemExit')[0]}: it ended itself and said: {last}"
    raise PreflightError(problem or last or "the check died", output)


def _made_otherwise(provider: Any, held: str) -> list[tuple[str, str]]:
    """Where a provider's plain values are not those that were written down, and how."""
    return list(differences(plain_attributes(provider), decode_held(held)))


def _warn_of(found: Sequence[tuple[str, str]]) -> None:
    """Warn of what a provider's constructor made otherwise in the other process."""
    for path, how in found[:_MANY]:
        warn_not_taken_over(
            f"provider.{path}: {how}, since the constructor has it from elsewhere than its "
            "arguments; pass it as one where results depend on it"
        )
    more = max(0, len(found) - _MANY)
    if more:
        warn_not_taken_over(f"provider: {more} more of its values are others in a worker")


def _read(file: Path) -> str | None:
    """What the check found; None where the user's modules ended its process (`os._exit`)."""
    return file.read_text() if file.exists() else None


def _last_line(output: str) -> str:
    lines = output.strip().splitlines()
    return one_line(lines[-1]) if lines else ""
