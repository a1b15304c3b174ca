"""HTCondor's submit description: condor_submit(1), "Submit Description File Commands".

dask-jobqueue writes one and folds prologue and worker into the arguments of a shell. Here they
become a program of several lines again, in which condor_submit sees no macros but its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection

from espnet3.errors import ConfigError

# Macros of condor_submit that a prologue may use; any other $(…) is the shell's.
_MACROS = frozenset({
    "clusterid", "cluster", "procid", "process", "node", "item", "itemindex", "row", "step",
})  # fmt: skip
# Runs each of its arguments as a line of one shell program. HTCondor takes a command's arguments
# in a single line, and a prologue may have several, with comments.
_PROGRAM = """eval "`printf '%b\\n' "$@"`\""""


class Description:
    """A description as dask-jobqueue writes it, to be changed.

    Args:
        script: its text, in which the shell's program may have several lines.

    Raises:
        ConfigError: it has another form.
    """

    def __init__(self, script: str) -> None:
        found = re.search(
            r'\A(.*?)^Arguments = "-c (.*)"\n(Executable = [^\n]*\n)\s*Queue\s*\Z',
            script,
            re.MULTILINE | re.DOTALL,
        )
        if found is None:
            raise ConfigError(
                "parallel.options", "the hook has changed the form of HTCondor's submit description"
            )
        self._head = found[1].splitlines()
        self._tail = [found[3].rstrip()]
        program = re.sub(r"\A'(.*)'\Z", r"\1", found[2], flags=re.DOTALL)
        self._program = program.replace("''", "'").replace('""', '"').split("\n")

    def value(self, name: str) -> str | None:
        """The value of a command, whose name knows no case; the last one counts."""
        own = [line for line in self._head if _name(line) == name]
        return own[-1].partition("=")[2].strip() if own else None

    def set(self, name: str, value: str) -> None:
        """Give a command this value."""
        self._tail.append(f"{name} = {value}")

    def set_default(self, name: str, value: str, *, instead_of: str | None = None) -> None:
        """Give a command this value, unless it has another than `instead_of`."""
        if self.value(name) == instead_of:
            self._head = [line for line in self._head if _name(line) != name]
            self.set(name, value)

    def text(self, n_tasks: int) -> str:
        """The description of so many tasks."""
        known = {*_MACROS, *map(_name, self._head), *map(_name, self._tail)}
        *prologue, worker = self._program
        lines = [*(_own_macros(line, known) for line in prologue), _own_macros(worker, ())]
        words = ["-c", _PROGRAM, "sh", *lines]
        arguments = f'Arguments = "{" ".join(map(_argument, words))}"'
        return "\n".join([*self._head, arguments, *self._tail, "", f"Queue {n_tasks}", ""])


def literal(text: str) -> str:
    """A text for the shell, in which condor_submit sees no macro whatever it is."""
    return shlex.quote(text).replace("$", "$''")


def _name(line: str) -> str:
    name, equals, _ = line.partition("=")
    return name.strip().lower() if equals and not line.startswith("#") else ""


def _argument(word: str) -> str:
    """A word in the new syntax of `arguments`."""
    doubled = word.replace("'", "''").replace('"', '""')
    return f"'{doubled}'" if not word or re.search(r"[\s']", word) else doubled


def _own_macros(line: str, known: Collection[str]) -> str:
    r"""A line for `_PROGRAM`, in which condor_submit sees no macros but the known ones.

    >>> print(_own_macros("cd $(mktemp -d); echo $(ProcId) $HOME $$(x) a\\b", ["procid"]))
    cd \0044(mktemp -d); echo $(ProcId) $HOME \0044\0044(x) a\\b
    """

    def escaped(found: re.Match[str]) -> str:
        macro = re.match(r"\$\(([\w.]+)\)", line[found.start() :])
        return "$" if macro and macro[1].lower() in known else r"\0044" * len(found[0])

    line = line.replace("\\", r"\\")
    # $INT(…) and the like are macros as well, and $$(…) is one of the machine.
    return re.sub(r"\$+(?=[A-Za-z_]*\()", escaped, line)
