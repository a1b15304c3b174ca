"""The shapes of dask-jobqueue's options, which takes them as they come.

A text where it wants a list is a list of letters to it, and a directive that begins with `#SBATCH`
a comment; neither is an error.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from espnet3.config.option_kinds import COUNTS, LISTS, RENAMED, SIZES, SWITCHES, TEXTS
from espnet3.errors import ConfigError
from espnet3.redaction import masked_text
from espnet3.schedulers.dialect import Dialect
from espnet3.text import one_line

if TYPE_CHECKING:
    from pydantic import JsonValue

_OF_WHAT = {
    "cancel_command_extra": "words",
    "env_extra": "shell lines",
    "extra": "words",
    "job_script_prologue": "shell lines",
    "submit_command_extra": "words",
    "worker_extra_args": "words",
}
_INSTEAD = {
    "job_name": "the option job_name names the jobs",
    "log_directory": "the option log_directory says where the logs are",
    "array": "n_shards and n_workers say how many tasks there are",
    "stay": "the submit command has to submit the job and end",
}


def check_options(
    dialect: Dialect,
    options: Mapping[str, JsonValue],
    where: Callable[[str], str],
    *,
    detached: bool,
) -> None:
    """Refuse options that dask-jobqueue or the scheduler would misunderstand without a word.

    Args:
        dialect: of the batch system whose options they are.
        options: their values, those of the user's jobqueue.yaml included.
        where: an option's name -> its place, for the error.
        detached: whether espnet3 itself names the jobs and their logs.

    Raises:
        ConfigError: says which, and the right form.
    """
    for name, value in options.items():
        problem = None if value is None else _problem(dialect, name, value, detached)
        if problem is not None:
            raise ConfigError(where(name), problem)


def with_new_names(options: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The options without dask-jobqueue's old names; a new one that is set counts.

    Example:
        >>> with_new_names({"env_extra": ["a"], "job_script_prologue": [], "cores": 1})
        {'job_script_prologue': ['a'], 'cores': 1}
    """
    found = {name: value for name, value in options.items() if name not in RENAMED}
    for old, new in RENAMED.items():
        if options.get(old) and not found.get(new):
            found[new] = options[old]
    return found


def _problem(dialect: Dialect, name: str, value: JsonValue, detached: bool) -> str | None:
    if name in LISTS:
        new = RENAMED.get(name, name)
        if new == "job_extra_directives" and not dialect.directive:
            return _no_mapping(value)
        return _no_list(dialect, new, value) or _wrong_part(dialect, new, value, detached)
    if name in TEXTS and (isinstance(value, bool) or not isinstance(value, str | int)):
        if isinstance(value, list) and all(isinstance(part, str) for part in value):
            return f"is text, not a list; write {_shown(','.join(map(str, value)))}"
        return f"is text, got {_shown(value)}; put what you mean in quotes"
    if name in SIZES and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        return f"must be a size such as 4GB, got {_shown(value)}"
    if name in COUNTS and (type(value) not in (int, float) or value < 1):  # type: ignore[operator]
        return f"must be a number from 1, got {_shown(value)}"
    if name in SWITCHES and not isinstance(value, bool):
        return f"must be true or false, got {_shown(value)}"
    if name == "shebang" and not str(value).startswith("#"):
        return f"must begin with #!, got {_shown(value)}; write {_shown(f'#!{value}')}"
    return None


def _shown(value: object) -> str:
    """A value as YAML takes it, without secrets, in one line."""
    return one_line(masked_text(json.dumps(value, ensure_ascii=False, default=str)), 120)


def _no_mapping(value: JsonValue) -> str | None:
    """Why these are no directives for HTCondor."""
    if not isinstance(value, Mapping):
        lines = value if isinstance(value, list) else [value]
        pairs = [str(line).partition("=") for line in lines]
        told = ", ".join(f"{left.strip()}: {right.strip()}" for left, sep, right in pairs if sep)
        example = one_line(masked_text(told), 120) or "request_gpus: 1"
        return (
            f"is a mapping of submit commands to values for HTCondor, for example `{{{example}}}`"
        )
    for key, part in value.items():
        if key.strip().lower() in ("arguments", "executable", "queue"):
            return (
                f"has {_shown(key)}, which is espnet3's own; job_script_prologue has lines to run"
            )
        if isinstance(part, list | dict) or part is None:
            return f"has no single value for {_shown(key)}, got {_shown(part)}"
    return None


def _no_list(dialect: Dialect, name: str, value: JsonValue) -> str | None:
    """Why this is not a list of text."""
    what = _OF_WHAT.get(name, "directives")
    if isinstance(value, str):
        return f"is a list of {what}, not text; write {_shown([value])}"
    if not isinstance(value, list):
        return f"is a list of {what}, got {_shown(value)}"
    for part in value:
        if not isinstance(part, str) and not (name == "worker_extra_args" and type(part) is int):
            return f"is a list of {what}, each text, and has {_shown(part)}; put it in quotes"
    return None


def _wrong_part(dialect: Dialect, name: str, value: JsonValue, detached: bool) -> str | None:
    """What is wrong with one of a list's texts."""
    for part in map(str, value if isinstance(value, list) else ()):
        if name == "job_directives_skip":
            if dialect.directive and part in f"{dialect.directive} -":
                return f"has {_shown(part)}, which is in every directive; name one, such as --mem"
            if not dialect.directive and part not in dialect.directives:
                known = ", ".join(sorted(dialect.directives))
                return f"has {_shown(part)}, which is none of the commands {known}"
        if name == "job_extra_directives":
            problem = _wrong_directive(dialect, part, detached)
            if problem is not None:
                return f"has {_shown(part)}, {problem}"
    return None


def _wrong_directive(dialect: Dialect, text: str, detached: bool) -> str | None:
    plain = text.strip()
    prefix = dialect.directive
    if plain.startswith("#"):
        own = plain.removeprefix(prefix).strip() if plain.startswith(prefix) else plain.lstrip("# ")
        return f"a comment behind dask-jobqueue's own {prefix}; write {_shown(own)}"
    try:
        words = shlex.split(plain)
    except ValueError as error:
        return f"which no shell could read: {error}"
    for kind, pattern in dialect.reserved.items():
        if (detached or kind in ("array", "stay")) and any(re.match(pattern, w) for w in words):
            return f"which is not to be set here: {_INSTEAD[kind]}"
    if not plain.startswith("-"):
        return f"which is not an option; one begins with -, such as {_shown(f'--{plain}')}"
    return None
