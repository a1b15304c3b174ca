"""What bsub of LSF 10.1 takes: its options, the lines `#BSUB`, and the form of their values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Container, Sequence
from typing import NamedTuple

Options = dict[str, list[str]]
"""Option without its dash -> its values, the last one counts most often."""

_WITH_VALUE = """
a alloc_flags app b C c clusters cn_cu cn_mem core_isolation csm cwd D data datagrp E Ep e env eo
eptl ext F f freq G g gpu hostfile i is J Jd jobaff jsdl jsdl_strict jsm json k L Lp ln_mem
ln_slots M m mig n network nnodes notify o oo outdir P p pack ptl Q q R rnc S s sla smt sp stage
step_cgroup T t U u v W We w wa wt yaml
"""
_FLAGS = "ar B datachk H hl I Ip IS ISp ISs Is IX K N Ne r rn ti tty ul x XF Zs"
# Those that change what a job is, or when bsub comes back.
_NOT_MODELLED = "I Ip IS ISp ISs Is IX K b E Ep H i is jsdl jsdl_strict json pack t yaml Zs"
MOST_TASKS = 1000  # MAX_JOB_ARRAY_SIZE
_LONGEST_NAME, _LONGEST_ARRAY = 4094, 255
QUEUES = ("normal", "gpu")
_UNIT = r"([KMGTPEZ]B?)?"
_FORMS = {
    "W": (r"(\d+:)?\d+(/\S+)?", "Bad RUNLIMIT specification"),
    "We": (r"(\d+:)?\d+(/\S+)?", "Bad estimated run time specification"),
    "M": (rf"\d+(\.\d+)?{_UNIT}!?", "Bad MEMLIMIT specification"),
    "n": (r"[1-9]\d*(,[1-9]\d*)?", "Bad argument for option -n"),
    "o": (r"\S.*", "Bad argument for option -o"),
    "e": (r"\S.*", "Bad argument for option -e"),
    "P": (r".+", "Bad project name"),
    "gpu": (r"-|(num|mode|mps|j_exclusive|aff|block|gpack|gmodel|gmem|glink|gtile|gvendor)=[^: ]+"
            r"(:\w+=[^: ]+)*", "Bad GPU requirement specification"),
    "sp": (r"[1-9]\d*", "Bad argument for option -sp"),
    "env": (r".+", "Bad argument for option -env"),
}  # fmt: skip
_SECTIONS = re.compile(r"\s*(select|order|rusage|span|same|cu|affinity)\[([^\[\]]+)\]\s*")
_CONDITION = re.compile(
    r"\s*(done|ended|exit|external|numdone|numended|numexit|numhold|numpend|numrun|numstart"
    r"|post_done|post_err|started)\(\s*([^()]+?)\s*\)\s*"
)


class Refused(Exception):
    """A command complains.

    Args:
        words: what it prints.
    """


class Name(NamedTuple):
    """What `-J` says; `n_tasks` is None for a job that is not an array."""

    name: str
    n_tasks: int | None
    throttle: int | None


class Limits(NamedTuple):
    """What `-W` and `-M` say; None is not a limit."""

    minutes: int | None
    kilobytes: float | None


def parsed(
    words: Sequence[str], with_value: Container[str], flags: Container[str]
) -> tuple[Options, list[str]]:
    """Options and what follows them; an option is a word of its own, and so is its value."""
    options: Options = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        word = rest.pop(0)
        name = word[1:]
        if name in flags:
            options.setdefault(name, []).append("")
        elif name not in with_value:
            raise Refused(f"Illegal option -- {word}")
        elif not rest:
            raise Refused(f"Option requires an argument -- {word}")
        else:
            options.setdefault(name, []).append(rest.pop(0))
    return options, rest


def bsub_options(words: Sequence[str], script: str) -> Options:
    """Those of a command line, which take precedence, and of the script on standard input."""
    options: Options = {}
    for line in script.splitlines():  # all of them, also behind commands
        if line.startswith("#BSUB"):
            found, rest = _bsub_words(shlex.split(line[5:], comments=True))
            if rest:
                raise Refused(f"Illegal option -- {rest[0]}")
            for name, values in found.items():
                options.setdefault(name, []).extend(values)
    given, command = _bsub_words(words)
    if command:
        raise Refused("a command in arguments is not modelled, nor LSB_BSUB_PARSE_SCRIPT")
    options |= given
    _check(options)
    return options


def _bsub_words(words: Sequence[str]) -> tuple[Options, list[str]]:
    return parsed(words, _WITH_VALUE.split(), _FLAGS.split())


def _check(options: Options) -> None:
    for name in sorted(options.keys() & _NOT_MODELLED.split()):
        raise Refused(f"-{name} is not modelled")
    for name, (pattern, complaint) in _FORMS.items():
        for value in options.get(name, []):
            if not re.fullmatch(pattern, value):
                raise Refused(f"{value}: {complaint}")
    for value in options.get("q", [])[-1:]:
        if value not in QUEUES:
            raise Refused(f"{value}: No such queue")
    for value in options.get("R", []):
        sections = _SECTIONS.findall(value)
        if _SECTIONS.sub("", value) or not sections:
            raise Refused(f"Bad resource requirement syntax: {value}")
        if len({section for section, _ in sections}) < len(sections):
            raise Refused(f'Error near "{sections[-1][0]}" : duplicate section')
    if "ti" in options and "w" not in options:
        raise Refused("-ti is an option of -w")


def job_name(options: Options) -> Name:
    """The name, and the array's size and throttle."""
    value = options.get("J", [""])[-1]
    if "[" not in value and "]" not in value:
        if len(value) > _LONGEST_NAME or re.search(r"[\x00-\x1f]", value):
            raise Refused("Bad job name")
        return Name(value, None, None)
    found = re.fullmatch(r"([A-Za-z0-9._-]+)\[([0-9,:\s-]+)\](%([1-9]\d*))?", value)
    if found is None or len(value) > _LONGEST_ARRAY:
        raise Refused("Bad job name")
    indices = [index for part in found[2].split(",") for index in _indices(part)]
    if not indices or min(indices) < 1:
        raise Refused("Bad job name")
    if max(indices) > MOST_TASKS:
        raise Refused("Job array index too large")
    if indices != [*range(1, len(indices) + 1)]:
        raise Refused("arrays other than 1-N are not modelled")
    return Name(found[1], len(indices), int(found[4]) if found[4] else None)


def _indices(part: str) -> range:
    found = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::([1-9]\d*))?)?\s*", part)
    if found is None:
        raise Refused("Job array index error")
    first = int(found[1])
    return range(first, int(found[2] or first) + 1, int(found[3] or 1))


def limits(options: Options) -> Limits:
    """How long a job may run, and how much memory it may use."""
    minutes, kilobytes = None, None
    for value in options.get("W", [])[-1:]:
        hours, _, rest = value.partition("/")[0].rpartition(":")
        minutes = 60 * int(hours or 0) + int(rest)
    for value in options.get("M", [])[-1:]:
        number, unit = value.rstrip("B!"), "K"
        if number[-1].isalpha():
            number, unit = number[:-1], number[-1]
        kilobytes = float(number) * 1024.0 ** "KMGTPEZ".index(unit)
    return Limits(minutes, kilobytes)


def dependencies(options: Options) -> list[str]:
    """The ids of the jobs whose ends a job waits for."""
    ids: list[str] = []
    for expression in options.get("w", [])[-1:]:
        conditions = _conditions(expression)
        if any(kind != "ended" for kind, _ in conditions) or "||" in expression:
            raise Refused(f"a dependency such as {expression} is not modelled")
        ids += [who for _, who in conditions]
    return ids


def _conditions(expression: str) -> list[tuple[str, str]]:
    """The conditions of a logical expression: its operators are `&&`, `||`, `!` and parentheses."""
    found = _CONDITION.findall(expression)
    bare = re.sub(r"\s", "", _CONDITION.sub("c", expression))
    while (simpler := re.sub(r"!c|\(c\)|c(&&|\|\|)c", "c", bare)) != bare:
        bare = simpler
    if bare != "c":
        raise Refused("Dependency condition syntax error")
    return [(kind, who) for kind, who in found]
