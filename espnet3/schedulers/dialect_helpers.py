"""What the dialects share on the way to their commands: arrays, log lines, ids."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator

from espnet3.specs.models import PlannedJob

# How many ids or names one command is given, so that its line does not become too long.
_AT_ONCE = 500


def is_array(job: PlannedJob, *, array: bool) -> bool:
    """Whether a job is submitted as an array; of one task it is a plain job (PBS Pro refuses)."""
    return array and job.n_tasks > 1


def log_line(job: PlannedJob, log_directory: str, index: str) -> str:
    """The script's line that opens its log; `index` is the shell's word for the task's."""
    before, _, after = job.log.partition("{index}")
    return f"exec >>{shlex.quote(f'{log_directory}/{before}')}{index}{shlex.quote(after)} 2>&1"


def id_chunks(words: Iterable[str], pattern: re.Pattern[str]) -> Iterator[list[str]]:
    """The words that the pattern takes, in id_chunks; a damaged file could give a command options.

    Example:
        >>> [*id_chunks(["7", "--all", "8"], re.compile("[0-9]+"))]
        [['7', '8']]
    """
    valid = [word for word in words if pattern.fullmatch(word)]
    for first in range(0, len(valid), _AT_ONCE):
        yield valid[first : first + _AT_ONCE]
