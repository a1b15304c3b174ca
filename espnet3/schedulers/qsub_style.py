"""What PBS and Moab share: the arguments of their submit commands, their scripts, names and ids."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator

from espnet3.specs.models import PlannedJob

# In older servers of PBS, and in Torque, which may be below Moab; qsub(1B), -N.
_LONGEST_NAME = 15
# How many ids one command is given, so that its line does not become too long.
_IDS_AT_ONCE = 500


def is_array(job: PlannedJob, *, array: bool) -> bool:
    """Whether a job is submitted as an array; of one task it is a plain job (PBS Pro refuses)."""
    return array and job.n_tasks > 1


def plain_arguments(name: str) -> list[str]:
    """Arguments for a job's name, and for a log that the script writes itself.

    What a job prints is kept on its node until it ends, and copied by a path in which ":" ends a
    host's name.
    """
    return ["-N", name, "-j", "oe", "-o", "/dev/null"]


def log_line(job: PlannedJob, log_directory: str, index: str) -> str:
    """The script's line that opens its log; `index` is the shell's word for the task's."""
    before, _, after = job.log.partition("{index}")
    return f"exec >>{shlex.quote(f'{log_directory}/{before}')}{index}{shlex.quote(after)} 2>&1"


def without_name(script: str) -> str:
    """The script without its name: the command line has it, and a long one here may be refused."""
    return re.sub(r"^#PBS -N .*\n", "", script, count=1, flags=re.MULTILINE)


def short_name(prefix: str, whole: str) -> str:
    """A job's name of a few letters of its prefix and a digest of its whole name."""
    import hashlib  # workers, which import the dialects, never come here

    bits = int.from_bytes(hashlib.blake2b(whole.encode(), digest_size=8).digest(), "big")
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    digest = "".join(letters[bits >> 5 * i & 31] for i in range(11))
    plain = re.sub(r"[^A-Za-z0-9]", "", prefix)
    plain = plain if plain[:1].isalpha() else f"e{plain}"
    # No "-": Torque appends "-7" to the names of an array's tasks.
    return f"{plain[: _LONGEST_NAME - len(digest) - 1]}_{digest}"


def id_line(output: str, pattern: re.Pattern[str]) -> str | None:
    """The job id in what a submit command printed.

    It stands in a line of its own; sites print banners around it, with plain numbers maybe.
    """
    lines = [line.strip() for line in output.splitlines()]
    ids = [line for line in lines if pattern.fullmatch(line)]
    named = [job_id for job_id in ids if "." in job_id]
    return [*ids, *named][-1] if ids else None


def handfuls(job_ids: Iterable[str], pattern: re.Pattern[str]) -> Iterator[list[str]]:
    """The ids that are such, in handfuls; a damaged file could give a command another option."""
    ids = [job_id for job_id in job_ids if pattern.fullmatch(job_id)]
    for first in range(0, len(ids), _IDS_AT_ONCE):
        yield ids[first : first + _IDS_AT_ONCE]
