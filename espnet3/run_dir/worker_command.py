"""The command line of a worker, its supervisor and a finisher: the words, and what they say.

`submit` writes them, jobs run them, and whoever looks for a process reads them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from espnet3._structs import Struct
from espnet3.errors import UsageError
from espnet3.run_dir.trust import POLICIES, Trust

WORKER = "espnet3.worker"
SUPERVISOR = "espnet3.worker.supervisor"
FINISHER = "espnet3.finish"
_OPTIONS = ("first_task", "task", "run_id", "job", "trust")
_NUMBERS = ("first_task", "task")
_USAGE = "RUN NUMBER [--first-task N] [--task N] [--run-id ID] [--job NAME] [--trust POLICY]"


class WorkerArguments(Struct):
    """What a worker is told.

    Attributes:
        run: the run directory, a path or URL.
        number: the submission's number, or the finisher's.
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

    def words(self) -> list[str]:
        """The words that say it; `parse_arguments` reads them.

        Example:
            >>> WorkerArguments("/shared/decode", 1, task=3).words()
            ['/shared/decode', '0001', '--task', '3']
        """
        found = [self.run, f"{self.number:04d}"]
        for name in ("run_id", "trust", "first_task", "job", "task"):
            value = getattr(self, name)
            if value != self._field_defaults[name]:
                found += [f"--{name.replace('_', '-')}", str(value)]
        return found


def parse_arguments(words: Sequence[str]) -> WorkerArguments:
    """Read the words of `WorkerArguments`.

    Raises:
        UsageError: they are wrong.

    Example:
        >>> parse_arguments(["/shared/decode", "0001", "--task", "3"]).task
        3
    """
    # Not by argparse, nor by getopt: what these import is a tenth of a worker's start.
    given: dict[str, Any] = {}
    places: list[str] = []
    rest = iter(words)
    for word in rest:
        name = word[2:].replace("-", "_")
        if not word.startswith("--"):
            places.append(word)
            continue
        if name not in _OPTIONS:
            raise UsageError(f"{word!r} is not an option; usage: {_USAGE}")
        if (value := next(rest, None)) is None:
            raise UsageError(f"{word} lacks its value; usage: {_USAGE}")
        given[name] = value
    if len(places) != 2:
        raise UsageError(f"usage: {_USAGE}")
    if given.get("trust", POLICIES[0]) not in POLICIES:
        raise UsageError(f"--trust: {given['trust']!r} is not one of {', '.join(POLICIES)}")
    run, given["number"] = places
    for name in ("number", *_NUMBERS):
        if name in given:
            given[name] = _number(name, given[name])
    return WorkerArguments(run, **given)


def _number(name: str, word: str) -> int:
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 18):
        raise UsageError(f"{name}: {word!r} is not a number; usage: {_USAGE}")
    return int(word)


def command(
    python: Sequence[str], flags: Sequence[str], module: str, arguments: WorkerArguments
) -> list[str]:
    """The command that runs a worker, a supervisor or a finisher.

    Args:
        python: the words that start the interpreter.
        flags: its options.
        module: WORKER, SUPERVISOR or FINISHER.
        arguments: what it is told.

    Example:
        >>> command(["python3"], [], WORKER, WorkerArguments("/r", 1))
        ['python3', '-P', '-m', 'espnet3.worker', '/r', '0001']
    """
    return [*python, *flags, "-P", "-m", module, *arguments.words()]


def arguments_of(words: Sequence[str], module: str = WORKER) -> WorkerArguments:
    """What a command says that `command` made.

    Raises:
        UsageError: it runs another program.

    Example:
        >>> arguments_of(["python3", "-P", "-m", "espnet3.worker", "/r", "0001"]).run
        '/r'
    """
    return parse_arguments(words[_program_ends(words, module) :])


def changed(words: Sequence[str], **arguments: Any) -> list[str]:
    """The command of a worker that is told something else besides.

    Args:
        words: a worker's command.
        **arguments: fields of `WorkerArguments`.

    Raises:
        UsageError: they run another program.

    Example:
        >>> changed(["python3", "-P", "-m", "espnet3.worker", "/r", "0001"], task=2)[-2:]
        ['--task', '2']
    """
    end = _program_ends(words, WORKER)
    return [*words[:end], *parse_arguments(words[end:])._replace(**arguments).words()]


def without_python(words: Sequence[str], python: str) -> list[str]:
    """What stands in a command behind the words that start the interpreter.

    Args:
        words: a worker's command.
        python: the interpreter as the user wrote it, for a shell.

    Raises:
        UsageError: it has another interpreter.

    Example:
        >>> without_python(["nice", "python3", "-P", "-m", "espnet3.worker"], "nice python3")
        ['-P', '-m', 'espnet3.worker']
    """
    first = shlex.split(python)
    if [*words[: len(first)]] != first:
        raise UsageError(f"the command does not begin with {python}")
    return [*words[len(first) :]]


def _program_ends(words: Sequence[str], module: str) -> int:
    if module not in words[1:]:
        raise UsageError(f"the command runs no {module}")
    return words.index(module, 1) + 1
