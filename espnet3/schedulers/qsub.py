"""What PBS and Moab share: arguments and scripts of `qsub`, names, ids, and exit statuses."""

from __future__ import annotations

import re

from espnet3.schedulers.base import TaskState, plain_name

# In older servers of PBS, and in Torque, which may be below Moab; qsub(1B), -N.
_LONGEST_NAME = 15
# Exit statuses by which the two say that they ended a job; -10 is another matter in PBS Pro.
_LIMITS = {
    False: {
        -24: "a limit of processors", -25: "a limit of processors", -26: "out of memory",
        -27: "out of memory", -28: "a limit of processor time", -29: "time limit",
    },
    True: {-10: "out of memory", -11: "time limit", -12: "a limit of processor time"},
}  # fmt: skip


def plain_arguments(name: str) -> list[str]:
    """Arguments for a job's name, and for a log that the script writes itself.

    What a job prints is kept on its node until it ends, and copied by a path in which ":" ends a
    host's name.
    """
    return ["-N", name, "-j", "oe", "-o", "/dev/null"]


def without_name(script: str) -> str:
    """The script without its name: the command line has it, and a long one here may be refused."""
    return re.sub(r"^#PBS -N .*\n", "", script, count=1, flags=re.MULTILINE)


def short_name(prefix: str, run_id: str, number: int, position: int) -> str:
    """A job's unique name of a few letters of its prefix and a digest of its whole name."""
    digest = name_digest(plain_name(prefix, run_id, number, position), 9)
    plain = re.sub(r"[^A-Za-z0-9]", "", prefix)
    plain = plain if plain[:1].isalpha() else f"e{plain}"
    # No "-": Torque appends "-7" to the names of an array's tasks.
    return f"{plain[: _LONGEST_NAME - len(digest) - 1]}_{digest}"


def name_digest(whole: str, length: int) -> str:
    """What stands for a whole name in a short one; with fewer letters, the beginning of it."""
    import hashlib  # workers, which import the dialects, never come here

    bits = int.from_bytes(hashlib.blake2b(whole.encode(), digest_size=8).digest(), "big")
    letters = "abcdefghijklmnopqrstuvwxyz234567"
    return "".join(letters[bits >> 5 * i & 31] for i in range(length))


def id_lines(output: str, pattern: re.Pattern[str]) -> list[str]:
    """What may be the job's id in what a submit command printed: it stands in a line of its own."""
    lines = [line.strip() for line in output.splitlines()]
    return [line for line in lines if pattern.fullmatch(line)]


def ended(
    status: str, *, torque: bool, over: bool, cancelled: bool, scheduler: str = "PBS"
) -> TaskState:
    """What is known of a task that has ended.

    Args:
        status: its exit status; anything but a number where that is not known.
        torque: whether it is Torque's.
        over: whether it ran as long as it was allowed to.
        cancelled: whether somebody asked to stop it.
        scheduler: who tells it, for a person.
    """
    code = int(status) if re.fullmatch(r"-?\d{1,9}", status) else 0
    signal = _signal(code)
    stopped = _LIMITS[torque].get(code, "")
    if not stopped and code and over:
        stopped = "time limit"
    elif not stopped and cancelled:
        stopped = "cancelled"
    if code < 0:
        said = "" if stopped else f"{scheduler} could not run it, exit status {code}"
    else:
        said = f"signal {signal}" if signal else f"exit code {code}" * bool(code)
    return TaskState("ended", "", said, signal, stopped)


def _signal(code: int) -> int:
    """The signal in an exit status: 256 and more for the script itself, else as shells have it."""
    for base in (256, 128):
        if base < code <= base + 64:
            return code - base
    return 0
