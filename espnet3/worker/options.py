"""What a worker is told on its command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from espnet3.run_dir.trust import POLICIES, Trust

_NUMBERS = frozenset({"number", "first_task", "task"})


class Options(NamedTuple):
    """The arguments.

    Attributes:
        run: the run directory, a path or URL.
        number: the submission's number.
        first_task: the task of array index 0.
        task: the task; None where the scheduler's variable says it.
        run_id: the run that the job was submitted for, if that is told.
        job: the job's unique name, by which its process is found.
        trust: whose run directories are believed.
    """

    run: str
    number: int
    first_task: int = 0
    task: int | None = None
    run_id: str | None = None
    job: str | None = None
    trust: Trust | None = None


def parse(argv: Sequence[str]) -> Options:
    """Read a worker's arguments.

    argparse, with what it loads, is a tenth of a worker's start. It is only asked about what no
    job script says: help, abbreviations, errors.

    Raises:
        SystemExit: they are wrong, or help was asked for.

    Example:
        >>> parse(["/shared/decode", "0001", "--task", "3"]).task
        3
    """
    return _parse_plain(argv) or _parse_any(argv)


def _parse_plain(argv: Sequence[str]) -> Options | None:
    """As `_parse_any` where all is written out, each option once; None where it is not."""
    found: dict[str, str | int] = {}
    words, positional = iter(argv), iter(("run", "number"))
    for word in words:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            value = next(words, "-")
            if name not in Options._field_defaults or "_" in word:
                return None
        else:
            name, value = next(positional, ""), word
        if not name or name in found or not value or value.startswith("-"):
            return None
        if name in _NUMBERS:
            if not (value.isascii() and value.isdecimal()) or len(value) > 18:
                return None
            found[name] = int(value)
        else:
            found[name] = value
    if "number" not in found or found.get("trust", POLICIES[0]) not in POLICIES:
        return None
    return Options(**found)  # type: ignore[arg-type]  # as `_NUMBERS` says


def _parse_any(argv: Sequence[str]) -> Options:
    import argparse

    parser = argparse.ArgumentParser(
        prog="python -m espnet3.worker",
        # By itself it loads shutil and all compressors, to learn how wide the terminal is.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=100),
    )
    parser.add_argument("run", help="the run directory, a path or URL")
    parser.add_argument("number", type=int, help="the submission's number")
    parser.add_argument("--first-task", type=int, default=0, help="task of array index 0")
    parser.add_argument("--task", type=int, help="the task; default: from the scheduler's variable")
    parser.add_argument("--run-id", help="the run that the job was submitted for")
    parser.add_argument("--job", help="the job's unique name, to find this process by")
    parser.add_argument("--trust", choices=POLICIES, help="whose run directories are believed")
    return Options(**vars(parser.parse_args(argv)))
