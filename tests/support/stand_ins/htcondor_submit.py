"""What condor_submit makes of a submit description, by condor_submit(1) of HTCondor 23.0.

It is as strict as the manual; that its macros, arguments and refusals are those of the real one is
shown by `tests/integration/test_htcondor_syntax.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MAX_JOBS_PER_SUBMISSION = 20000
UNIVERSES = ("vanilla", "local", "scheduler", "grid", "java", "vm", "parallel", "container")
# Commands whose value is an expression, and the attribute that they become.
EXPRESSIONS = {
    "requestcpus": "RequestCpus", "request_cpus": "RequestCpus",
    "requestmemory": "RequestMemory", "request_memory": "RequestMemory",
    "requestdisk": "RequestDisk", "request_disk": "RequestDisk",
    "requestgpus": "RequestGPUs", "request_gpus": "RequestGPUs",
    "requirements": "Requirements", "rank": "Rank", "priority": "JobPrio",
    "periodic_remove": "PeriodicRemove", "periodic_hold": "PeriodicHold",
    "periodic_release": "PeriodicRelease", "on_exit_hold": "OnExitHold",
    "on_exit_remove": "OnExitRemove", "allowed_job_duration": "AllowedJobDuration",
    "allowed_execute_duration": "AllowedExecuteDuration", "max_retries": "JobMaxRetries",
    "job_max_vacate_time": "JobMaxVacateTime", "leave_in_queue": "LeaveJobInQueue",
}  # fmt: skip
# Those whose value is a text.
TEXTS = {
    "accounting_group": "AcctGroup", "accounting_group_user": "AcctGroupUser",
    "batch_name": "JobBatchName", "concurrency_limits": "ConcurrencyLimits",
    "kill_sig": "KillSig", "notify_user": "NotifyUser", "container_image": "ContainerImage",
    "should_transfer_files": "ShouldTransferFiles", "description": "JobDescription",
    "when_to_transfer_output": "WhenToTransferOutput", "require_gpus": "RequireGPUs",
}  # fmt: skip
OTHERS = frozenset({
    "arguments", "environment", "error", "executable", "getenv", "initialdir", "input", "log",
    "max_idle", "max_materialize", "notification", "output", "stream_error", "stream_output",
    "transfer_executable", "transfer_input_files", "transfer_output_files", "universe",
})  # fmt: skip


class Refused(Exception):
    """A command complains, in these words."""


@dataclass
class Submitted:
    """What is submitted.

    Attributes:
        ad: attributes of the cluster, each an expression.
        arguments: those of each job, in the order of their numbers.
        environ: what the description and `getenv` put into the jobs' environment.
        commands: commands and their values, without the macros of single jobs.
        max_materialize: how many jobs there may be at a time, or None.
        warnings: what is said besides.
    """

    ad: dict[str, str]
    arguments: list[list[str]]
    environ: dict[str, str]
    commands: dict[str, str]
    max_materialize: int | None = None
    warnings: list[str] = field(default_factory=list)


def read(text: str, appended: Sequence[str], environ: Mapping[str, str]) -> Submitted:
    """Read a description.

    Args:
        text: it.
        appended: lines that take effect before its queue statement.
        environ: of the command.

    Raises:
        Refused: it is wrong.
    """
    values, names, count = _statements(text, appended)
    used: set[str] = set()
    macros = _Macros(values, used)
    n_jobs = _count(macros.expanded(count))
    universe = macros.expanded(values.get("universe", "vanilla")).lower()
    if universe not in UNIVERSES:
        raise Refused(f"I don't know about the '{universe}' universe.")
    executable = macros.expanded(values.get("executable", ""))
    if not executable:
        raise Refused("No 'executable' parameter was provided")
    if not os.access(executable, os.X_OK):
        raise Refused(f"Executable file {executable} does not exist or is not executable")
    ad: dict[str, str] = {"Cmd": f'"{executable}"'}
    for name, value in values.items():
        shown = macros.expanded(value, "{job}", "0")
        if name.startswith(("my.", "+")):
            used.add(name)
            attribute = names[name].removeprefix("+")
            attribute = attribute[3:] if name.startswith("my.") else attribute
            if not re.fullmatch(r"[A-Za-z_]\w*", attribute):
                raise Refused(f"Parse error in expression: \n\t{attribute} = {shown}")
            ad[attribute] = _expression(attribute, shown)
        elif name in EXPRESSIONS:
            used.add(name)
            ad[EXPRESSIONS[name]] = _expression(EXPRESSIONS[name], shown)
        elif name in TEXTS:
            used.add(name)
            ad[TEXTS[name]] = f'"{shown}"'
        elif name in OTHERS:
            used.add(name)
    arguments = values.get("arguments", "")
    found = Submitted(
        ad,
        [_words(macros.expanded(arguments, "{job}", str(n)), "arguments") for n in range(n_jobs)],
        _environment(macros, values, environ),
        {name: macros.expanded(value, "{job}", "0") for name, value in values.items()},
    )
    if "max_materialize" in values:
        limit = found.commands["max_materialize"]
        if not limit.isdecimal() or int(limit) < 1:
            raise Refused(f"max_materialize = {limit} is invalid, must eval to an integer")
        found.max_materialize = int(limit)
    elif n_jobs > MAX_JOBS_PER_SUBMISSION:
        raise Refused("Number of submitted jobs would exceed MAX_JOBS_PER_SUBMISSION")
    found.warnings = [
        f"WARNING: the line '{names[name]} = {value}' was unused by condor_submit. Is it a typo?"
        for name, value in values.items()
        if name not in used
    ]
    return found


def _statements(text: str, appended: Sequence[str]) -> tuple[dict[str, str], dict[str, str], str]:
    """Names in lower case -> values, the same -> names as given, and what follows `queue`."""
    values: dict[str, str] = {}
    names: dict[str, str] = {}

    def take(line: str, where: str) -> None:
        found = re.fullmatch(r"\s*([+]?[A-Za-z_][\w.]*)\s*=\s*(.*?)\s*", line)
        if found is None:
            raise Refused(f"on {where} of submit file: {line.strip()!r} is not a command")
        values[found[1].lower()], names[found[1].lower()] = found[2], found[1]

    count: str | None = None
    joined = re.sub(r"\\\n", "", text)
    for number, line in enumerate(joined.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if count is not None:
            raise Refused("commands behind the queue statement are not modelled")
        queue = re.fullmatch(r"\s*queue(\s+(.*?))?\s*", line, re.IGNORECASE)
        if queue is not None:
            count = queue[2] or "1"
            for more in appended:
                take(more, "the -append option")
        else:
            take(line, f"line {number}")
    if count is None:
        raise Refused("no queue statement in the submit description")
    return values, names, count


class _Macros:
    """The macros of a description: `$(name)`, `$(name:default)` and `$F(name)`."""

    def __init__(self, values: Mapping[str, str], used: set[str]) -> None:
        self._values, self._used = values, used

    def expanded(self, value: str, cluster: str = "", process: str = "") -> str:
        """A text with its macros expanded."""
        live = {"clusterid": cluster, "cluster": cluster, "procid": process, "process": process}

        def one(found: re.Match[str]) -> str:
            function, (name, colon, default) = found[1], found[2].partition(":")
            if function not in ("", "F"):
                raise Refused(f"${function}() is not modelled")
            name = name.strip().lower()
            if name == "dollar":
                return "\0"
            self._used.add(name)
            text = live.get(name, self._values.get(name, default if colon else ""))
            return text.strip('"') if function else text

        for _ in range(20):
            before = value
            value = re.sub(r"(?<!\$)\$([A-Za-z_]*)\(([^()]*)\)", one, value)
            if value == before:
                break
        if re.search(r"\$\$[(\[]", value):
            raise Refused("$$() is not modelled")
        return value.replace("\0", "$")


def _count(text: str) -> int:
    if re.search(r"\b(from|in|matching)\b", text):
        raise Refused("queue over items is not modelled")
    if not re.fullmatch(r"\d+", text):
        raise Refused("Invalid Queue count expression")
    return int(text)


def _words(value: str, what: str) -> list[str]:
    """The words of a value in the new syntax (in double quotes), or in the old one."""
    if not value.startswith('"'):
        if '"' in value:
            raise Refused(f"Found illegal unescaped double-quote: {value}")
        return value.split()
    problem = f"The full {what} you specified were: {value}"
    body = re.fullmatch(r'"((?:[^"]|"")*)"', value)
    if body is None:
        raise Refused(problem)
    text = body[1].replace('""', '"')
    word = r"(?:[^\s']|'(?:[^']|'')*')+"
    if not re.fullmatch(rf"\s*(?:{word}(?:\s+|$))*", text):
        raise Refused(problem)
    part = re.compile(r"'((?:[^']|'')*)'|([^\s']+)")
    return [
        "".join((m[1] or "").replace("''", "'") if m[2] is None else m[2] for m in part.finditer(w))
        for w in re.findall(word, text)
    ]


def _environment(
    macros: _Macros, values: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    getenv = macros.expanded(values.get("getenv", "False"))
    handed: dict[str, str] = {}
    if getenv.lower() == "true":
        handed = dict(environ)
    elif getenv.lower() != "false":
        handed = {n: environ[n] for n in re.split(r"[\s,]+", getenv) if n in environ}
    value = macros.expanded(values.get("environment", ""))
    parts = _words(value, "environment") if value.startswith('"') else value.split(";")
    for part in filter(None, parts):
        name, equals, text = part.partition("=")
        if not equals:
            raise Refused(f"The environment you specified was: '{value}'")
        handed[name.strip()] = text
    return handed


_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>\d+(?:\.\d+)?[A-Za-z%]?\b|\.\d+)
    |(?P<name>[A-Za-z_][\w.]*)|(?P<open>[(\[{])|(?P<close>[)\]}])
    |(?P<operator>=\?=|=!=|==|!=|<=|>=|&&|\|\||[-+*/%<>?:!,]))""",
    re.VERBOSE,
)
_PREFIXES = ("-", "+", "!")


def _expression(name: str, text: str) -> str:
    """Refuse what is not a ClassAd expression; returns it.

    Operands and operators have to take turns, and brackets have to match.
    """
    problem = Refused(f"Parse error in expression: \n\t{name} = {text}")
    at, operand, stack, last = 0, False, "", ""
    pairs = {")": "(", "]": "[", "}": "{"}
    text = text.strip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise problem
        at, kind, word = token.end(), token.lastgroup, token[0].strip()
        if kind in ("text", "number", "name"):
            fine, operand = not operand, True
        elif kind == "open":
            fine, operand = not operand or (word == "(" and last == "name") or word == "[", False
            stack += word
        elif kind == "close":
            fine = stack.endswith(pairs[word]) and (operand or last == "open")
            stack, operand = stack[:-1], True
        else:
            fine, operand = operand or word in _PREFIXES, False
        if not fine:
            raise problem
        last = str(kind)
    if stack or not operand:
        raise problem
    return text
