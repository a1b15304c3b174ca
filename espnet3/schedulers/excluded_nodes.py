"""What dialects share to keep jobs away from nodes: hosts' names, and directives of a script."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from itertools import takewhile

# Names come from records in the run directory, and become parts of a scheduler's expressions.
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?")


def host_names(nodes: Iterable[str]) -> list[str]:
    """Those that are hosts' names, each once; a damaged file could give a scheduler anything.

    >>> host_names(["n1", "n2.site", "n1", "n3' or 1=1", "-x", ""])
    ['n1', 'n2.site']
    """
    return list(dict.fromkeys(filter(_HOST.fullmatch, nodes)))


def short_names(nodes: Iterable[str]) -> list[str]:
    """The same without their domains: a host and its scheduler may not agree on these.

    >>> short_names(["n1", "n1.site", "n2.site", "10.0.0.7"])
    ['n1', 'n2', '10.0.0.7']
    """
    names = (re.sub(r"(?<=[A-Za-z])([^.]*)\..*", r"\1", name) for name in host_names(nodes))
    return list(dict.fromkeys(names))


def option_values(script: str, directive: str, short: str, long: str = "") -> list[str]:
    r"""The values that an option has in a script's directives, in order.

    Args:
        script: the script.
        directive: what its directives begin with.
        short: the option, such as `-x`, whose value may follow it at once.
        long: another name, such as `--exclude`, whose value may follow a "=".

    Example:
        >>> option_values("#SBATCH -x a --exclude=b\n#SBATCH -xc", "#SBATCH", "-x", "--exclude")
        ['a', 'b', 'c']
    """
    return [
        value for words in _directives(script, directive) for value in _values(words, short, long)
    ]


def _directives(script: str, directive: str) -> Iterator[list[str]]:
    for line in script.splitlines():
        if line.startswith(directive):
            try:
                yield shlex.split(line.removeprefix(directive), comments=True)
            except ValueError:  # a quote that is not closed: whoever reads it will say so
                yield line.removeprefix(directive).split()


def _values(words: list[str], short: str, long: str) -> Iterator[str]:
    rest = iter(words)
    for word in rest:
        if word in (short, long):
            yield from (next(rest, ""),)
        elif long and word.startswith(f"{long}="):
            yield word.removeprefix(f"{long}=")
        elif word.startswith(short):
            yield word.removeprefix(short)


def with_directive(script: str, directive: str, text: str) -> str:
    r"""The script with one more directive behind its own, so that it counts most.

    Example:
        >>> print(with_directive("#!/bin/sh\n#PBS -q a\n\ntrue", "#PBS", "-l b=c"))
        #!/bin/sh
        #PBS -q a
        #PBS -l b=c
        <BLANKLINE>
        true
    """
    lines = script.splitlines(keepends=True)
    head = takewhile(lambda line: line.startswith("#") or not line.strip(), lines)
    own = [place for place, line in enumerate(head, 1) if line.startswith(directive)]
    place = own[-1] if own else 1
    return "".join([*lines[:place], f"{directive} {text}\n", *lines[place:]])
