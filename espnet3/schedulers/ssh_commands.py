"""Small scripts for `sh` that run on another host through OpenSSH, and what they answer."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from espnet3.errors import SchedulerUnavailable
from espnet3.run_dir.worker_command import SUPERVISOR, WORKER
from espnet3.schedulers.commands import NoAnswer, ask
from espnet3.text import one_line

# Whatever the user's configuration says of passwords, terminals and tunnels. A master connection
# that is there is used; to become one would let the command wait for the others' end.
COMMAND = (
    "ssh", "-T", "-a", "-x",
    *(word for option in (
        "BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=3",
        "ControlMaster=no", "ClearAllForwardings=yes", "PermitLocalCommand=no",
        "RemoteCommand=none", "LogLevel=ERROR",
    ) for word in ("-o", option)),
)  # fmt: skip
# Of a user, of a host and of the aliases that people give them; no word of a shell or an option.
_HOST = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_BEGIN = "espnet3 begins"  # what a login shell's own files print comes before it
_AT_ONCE = 16  # connections
_LINE = re.compile(r"\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+(.*)")
# The words of `WorkerArguments` have these last.
_WORDS = re.compile(
    rf".* -m ({re.escape(WORKER)}|{re.escape(SUPERVISOR)}) .* --job (\S+)(?: --task (\d+))?\s*"
)
_FORKED = 1  # of the column F of ps on Linux: it still runs its parent's program
T = TypeVar("T")


class Found(NamedTuple):
    """A worker (or supervisor: no task) of a host, by its process."""

    job: str
    task: int | None
    pid: int


def is_host(value: object) -> bool:
    """Whether something is a host's name, as `user@host` too, that can be a word of a command.

    Example:
        >>> [is_host(host) for host in ("ana@gpu1.lab", "-oProxyCommand=x", "a;b")]
        [True, False, False]
    """
    return isinstance(value, str) and _HOST.fullmatch(value) is not None


def command_for(host: str, name: str = "espnet3") -> list[str]:
    """The command that runs a script on a host, which it reads from its standard input.

    Args:
        host: the host.
        name: a word that the command has, by which it can be found.
    """
    # Any login shell reads this alike, csh and fish too.
    return [*COMMAND, "--", host, f"exec sh -s {name}"]


def wrapped(script: str) -> str:
    """A script that is read to its end before it runs, so that no command of it reads the rest."""
    return f"{{\necho '{_BEGIN}'\nPATH=$PATH:/usr/bin:/bin\n{script}\nexit 0\n}} </dev/null\n"


async def run_script(host: str, script: str, *, name: str = "espnet3", timeout: float = 60) -> str:
    """What a script prints on a host.

    Args:
        host: the host.
        script: for POSIX's sh; it ends with 0.
        name: see `command_for`.
        timeout: seconds after which it is given up.

    Raises:
        NoAnswer: it took longer; whether it had an effect is not known.
        SchedulerUnavailable: there is no connection, or the script fails; names the host.
    """
    if not is_host(host):  # it may come from a file that somebody has edited
        raise SchedulerUnavailable("ssh", f"{one_line(repr(host), 60)} is not a host's name")
    try:
        answer = await ask("ssh", command_for(host, name), stdin=wrapped(script), timeout=timeout)
    except NoAnswer:
        raise NoAnswer("ssh", f"{host}: no answer within {timeout:g} s") from None
    _, begun, out = answer.out.partition(f"{_BEGIN}\n")
    if not begun or answer.code != 0:
        said = " ".join(answer.err.split()) or f"ssh ended with code {answer.code}"
        raise SchedulerUnavailable("ssh", f"{host}: {one_line(said, 300)}")
    return out


async def on_each(asked: Iterable[tuple[str, Awaitable[T]]]) -> tuple[dict[str, T], dict[str, str]]:
    """Ask hosts at the same time: host -> answer, and host -> what is wrong with it."""
    few = asyncio.Semaphore(_AT_ONCE)

    async def one(answer: Awaitable[T]) -> T | SchedulerUnavailable:
        async with few:
            try:
                return await answer
            except SchedulerUnavailable as error:
                return error

    hosts, waiting = zip(*asked, strict=True) if (asked := [*asked]) else ((), ())
    answers = zip(hosts, await asyncio.gather(*map(one, waiting)), strict=True)
    fine: dict[str, T] = {}
    wrong: dict[str, str] = {}
    for host, answer in answers:
        if isinstance(answer, SchedulerUnavailable):
            wrong[host] = str(answer).removeprefix("ssh: ")
        else:
            fine[host] = answer
    return fine, wrong


def require_all(wrong: Collection[str]) -> None:
    """Raise SchedulerUnavailable where hosts do not answer, in one line that names them."""
    if wrong:
        raise SchedulerUnavailable("ssh", "; ".join(dict.fromkeys(wrong)))


async def processes_on(host: str, users: Iterable[str] = ()) -> list[Found]:
    """The workers and supervisors of the user that logs in there, and of others that are named."""
    ids = "".join(f"id -u -- {shlex.quote(user)} 2>/dev/null\n" for user in sorted(users) if user)
    # The bracket keeps grep from finding itself.
    script = f"""
id -u
{ids}echo processes
all=$(ps -A -ww -o f= -o pid= -o pgid= -o uid= -o ruid= -o args=) || exit 3
printf '%s\\n' "$all" | grep -e '-m espnet3[.]worker'
"""
    known, _, lines = (await run_script(host, script)).partition("processes\n")
    return _parse(lines.splitlines(), {int(word) for word in known.split() if word.isdecimal()})


def _parse(lines: Sequence[str], users: set[int]) -> list[Found]:
    found = []
    for line in lines:
        columns = _LINE.fullmatch(line)
        words = _WORDS.fullmatch(columns[6]) if columns is not None else None
        if columns is None or words is None:
            continue
        flags, pid, group, effective, real = (int(columns[i]) for i in range(1, 6))
        if effective != real or real not in users:
            continue
        if words[1] == SUPERVISOR:
            # What is starting it, and what it is starting, look the same but for their group.
            if pid == group:
                found.append(Found(words[2], None, pid))
        elif words[3] is not None and not flags & _FORKED:
            found.append(Found(words[2], int(words[3]), pid))
    return found


async def end_processes(host: str, found: Sequence[Found]) -> None:
    """Ask processes of a host to end, supervisors first, so that they start nothing more."""
    ordered = sorted(found, key=lambda one: one.task is not None)
    # Its pid may be another one's by now.
    script = "".join(
        f"ps -ww -o args= -p {one.pid} | grep -q -F -e {shlex.quote(f'--job {one.job}')} "
        f"&& kill -TERM {one.pid} 2>/dev/null\n"
        for one in ordered
    )
    if script:
        await run_script(host, script)
