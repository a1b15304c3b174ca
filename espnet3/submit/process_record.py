"""What this process holds, besides what `submitter` describes, that a worker takes over.

`docs/process-state.md` says of each kind of state what becomes of it.
"""

from __future__ import annotations

import contextlib
import locale
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from espnet3.errors import ClassError, ConfigError
from espnet3.redaction import is_secret, masked_text
from espnet3.schedulers import get_scheduler, known_schedulers
from espnet3.specs.models import ClassReference, ProcessState
from espnet3.specs.nested import WarningFilter
from espnet3.storage import permissions
from espnet3.storage.paths import readable
from espnet3.text import one_line
from espnet3.user_code.import_path import hidden_modules
from espnet3.user_code.main_module import MAIN, WORKER_VARIABLE, describe_main
from espnet3.user_code.references import refer_to

# Read by an interpreter, or by the C library for it, when it starts.
AT_START = ("LANG", "LC_ALL", "LC_CTYPE", "PYTHONHASHSEED", "PYTHONIOENCODING", "PYTHONUTF8")
# The scheduler's word on these counts; a worker gets the submitter's where it has none.
WEAK = frozenset({
    "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "TEMP", "TMP", "TMPDIR", "ZE_AFFINITY_MASK",
})  # fmt: skip
# What belongs to a host, a terminal, a login or this very process.
_OF_HERE = frozenset({
    "__DASK_PARENT_PID",
    "COLUMNS", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "GPG_TTY", "HOST", "HOSTNAME", "KRB5CCNAME",
    "LINES", "OLDPWD", "PWD", "SHLVL", "STY", "TERM", "TMUX", "TMUX_PANE", "WAYLAND_DISPLAY",
    "WINDOWID", "WORLD_RANK", "WORLD_SIZE", "XAUTHORITY", "_", WORKER_VARIABLE,
})  # fmt: skip
_OF_HERE_PREFIXES = ("MPI_", "OMPI_", "PYTEST_", "SSH_", "XDG_RUNTIME_", "XDG_SESSION_")


class NotTakenOver(UserWarning):
    """Something of this process that its run's workers do not get, named."""


class Held(NamedTuple):
    """What this process holds.

    Attributes:
        process: what workers take over.
        weak: variables that were changed in Python and that workers set where they have none.
    """

    process: ProcessState
    weak: dict[str, str]


def held_here(named: Iterable[str] = (), *, passed_on: bool = False) -> Held:
    """What this process holds at this moment.

    Args:
        named: variables that the parallel config names, so that they are stored though they may
            look secret.
        passed_on: whether workers get the environment from the scheduler, too.

    Raises:
        ConfigError: something cannot be stored as text; says what.
    """
    started = _initial_environment()
    changed = (
        {}
        if started is None
        else _changes(started, os.environ, frozenset(named), passed_on=passed_on)
    )
    weak = {name: value for name in WEAK if (value := changed.pop(name, None)) is not None}
    main = None if _is_command(vars(sys.modules[MAIN])) else describe_main()
    argv = _texts("sys.argv", sys.argv)
    initial = None if main is None else _initial_argv(main)
    process = ProcessState(
        argv=argv,
        initial_argv=None if initial in (None, argv) else _texts("sys.orig_argv", initial or []),
        main=main,
        flags=_flags(),
        start_environment=_at_start(started),
        environment=changed,
        umask=permissions.umask(),
        recursion_limit=sys.getrecursionlimit(),
        int_max_str_digits=sys.get_int_max_str_digits(),
        start_method=_start_method(),
        locale=_locale(started),
        warning_filters=_warning_filters(),
        hidden_modules=hidden_modules(),
    )
    return Held(process, weak)


def _texts(what: str, words: Sequence[Any]) -> list[str]:
    """Words of a command line, as they can be stored.

    Raises:
        ConfigError: one is not text, or not UTF-8.
    """
    for position, word in enumerate(words):
        name = f"{what}[{position}]"
        if not isinstance(word, str):
            problem = f"is not text but {type(word).__name__}; workers get the command line as well"
            raise ConfigError(name, problem)
        require_utf8(name, word)
    return [str(word) for word in words]


def require_utf8(name: str, text: str) -> None:
    """Refuse what no record could hold. The text itself, which may be secret, is not shown.

    Args:
        name: what it is, as the user would write it.
        text: of this process, where bytes that are not UTF-8 are lone surrogates.

    Raises:
        ConfigError: it has such bytes.

    Example:
        >>> require_utf8("sys.argv[1]", "train.py")
    """
    if not readable(text):
        problem = "is not UTF-8, and workers would get it through JSON"
        raise ConfigError(name, f"{problem}; rename what it names, or leave it out")


def _initial_argv(main: ClassReference) -> list[str] | None:
    """What `sys.argv` was when Python began to run the main module.

    None where another program runs it (`python -m cProfile`), which has set it.

    Args:
        main: this process's main module.
    """
    words = sys.orig_argv[1:]
    while words and words[0].startswith("-") and words[0] != "-":
        option = words.pop(0)
        if option == "--check-hash-based-pycs":
            del words[:1]
        letter = _LAST_LETTER.match(option)
        if letter is None:
            continue
        if letter[1] == "c":
            return None
        value = letter[2] or (words.pop(0) if words else "")
        if letter[1] == "m":
            same = main.file is None and main.module in (value, f"{value}.__main__")
            file = getattr(sys.modules[MAIN], "__file__", None)
            return [str(file), *words] if same and file else None
    if not words or main.file is None:
        return None
    file = os.path.abspath(words[0])
    return words if main.file in (file, os.path.join(file, "__main__.py")) else None


_LAST_LETTER = re.compile(r"-[a-zA-Z]*?([cmWX])(.*)", re.DOTALL)  # of those that take a value


def _is_command(main: Mapping[str, Any]) -> bool:
    """Whether the main module is espnet3's own command, which no user's class is of."""
    return str(getattr(main.get("main"), "__module__", "")).startswith("espnet3.cli")


def _flags() -> list[str]:
    """What `multiprocessing` tells the interpreters that it starts; `-P` workers have anyway.

    `-B` is left out: it changes no result, and workers that keep no bytecode start slowly.
    """
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [flag for flag in flags if flag not in ("-B", "-P")]


def _initial_environment() -> dict[str, str] | None:
    """The environment that this process began with; None where that cannot be told.

    Programs that change their title in `ps` write over it.
    """
    try:
        data = Path("/proc/self/environ").read_bytes()
    except OSError:
        return None  # no Linux
    entries = os.fsdecode(data).removesuffix("\0").split("\0") if data else []
    if not all("=" in entry for entry in entries):
        return None
    return dict(entry.split("=", 1) for entry in entries)


def _changes(
    before: Mapping[str, str], now: Mapping[str, str], named: Collection[str], *, passed_on: bool
) -> dict[str, str | None]:
    """Variables that were set, or removed, in Python, and that are for workers too."""
    schedulers = [get_scheduler(name) for name in known_schedulers()]
    prefixes = (*_OF_HERE_PREFIXES, *(p for s in schedulers for p in s.inherited))
    every = {**before, **now}
    of_jobs = every.keys() - set.intersection(*(set(s.scrubbed(every)) for s in schedulers))
    found: dict[str, str | None] = {}
    secret = []
    for name in sorted(before.keys() | now.keys()):
        value = now.get(name)
        if value == before.get(name) or name in _OF_HERE or name in of_jobs:
            continue
        if name.startswith(prefixes):
            continue
        if name == "LC_CTYPE" and name not in before and value in ("C.UTF-8", "C.utf8", "UTF-8"):
            continue  # Python's own doing, in the C locale
        if value is not None and is_secret(name) and name not in named:
            secret.append(name)
            continue
        for text in (name, value or ""):
            require_utf8(f"os.environ[{one_line(ascii(name), 60)}]", text)
        found[name] = value
    if secret and not passed_on:
        warn_not_taken_over(
            f"{', '.join(secret)}: set in Python, and may be secret, so run.json does not hold it; "
            "workers have it if the scheduler is told to pass it on. Name it in "
            "environment_variables to store it, or have the provider read it where the work runs"
        )
    return found


def _at_start(started: Mapping[str, str] | None) -> dict[str, str]:
    """The variables that made this interpreter what it is."""
    if started is None:
        started = os.environ
    names = [n for n in AT_START if not (n.startswith("PYTHON") and sys.flags.ignore_environment)]
    found = {name: started[name] for name in names if name in started}
    for name, value in found.items():
        require_utf8(f"os.environ[{name!r}]", value)
    return found


def _start_method() -> Any:
    """How `multiprocessing` starts processes, where that was set to something else than usual."""
    method = multiprocessing.get_start_method(allow_none=True)
    return None if method == multiprocessing.get_all_start_methods()[0] else method


def _locale(started: Mapping[str, str] | None) -> dict[str, str]:
    """The categories that `locale.setlocale` has set."""
    environ = os.environ if started is None else started
    usual = next((v for n in ("LC_ALL", "LC_CTYPE", "LANG") if (v := environ.get(n))), "C")
    found = {}
    for name in ("COLLATE", "CTYPE", "MESSAGES", "MONETARY", "NUMERIC", "TIME"):
        value = locale.setlocale(getattr(locale, f"LC_{name}"))
        begun = (usual, "C", "C.UTF-8", "C.utf8") if name == "CTYPE" else ("C", "POSIX")
        if value not in begun:
            found[f"LC_{name}"] = value
    return found


def _warning_filters() -> list[WarningFilter]:
    """All filters where one turns warnings into exceptions; the others change only what is shown.

    Those of `-W` are among the interpreter's flags.
    """
    if all(entry[0] != "error" for entry in warnings.filters):
        return []
    found = []
    entries: Sequence[Any] = warnings.filters
    for action, message, category, module, line in entries:
        with contextlib.suppress(ClassError):  # a worker has no such class
            found.append(
                WarningFilter(
                    action=str(action),
                    message=getattr(message, "pattern", message),
                    category=refer_to(category),
                    module=getattr(module, "pattern", module),
                    lineno=line,
                )
            )
    return found


def has_other_words(there: ProcessState | None, here: ProcessState | None) -> bool:
    """Whether the workers of a run that goes on see another command line than this process's."""
    if there is None or here is None or not (there.main or here.main):  # a notebook's is its own
        return False
    return there.argv[1:] != here.argv[1:]


def warn_of_others(
    there: ProcessState | None, here: ProcessState | None, reader: str | None = None
) -> None:
    """Warn where the workers of a run that goes on see something else than this process.

    Args:
        there: of the process that submitted the run first.
        here: of this one.
        reader: the source file by which another command line matters; None where none does.
    """
    if there is None or here is None:
        return
    if reader is not None:
        kept, new = (masked_text(shlex.join(p.argv[1:])) or "none" for p in (there, here))
        warn_not_taken_over(
            f"sys.argv: the run was submitted with {kept}, which its workers go on to see, "
            f"and not with {new}; {one_line(os.path.basename(reader))} reads it; choose another "
            "run_dir where that makes a difference"
        )
    others = [name for name in _IN_WORDS if getattr(there, name) != getattr(here, name)]
    before, now = there.environment, here.environment
    names = [n for n in sorted(before.keys() | now.keys()) if before.get(n, "") != now.get(n, "")]
    if others or names:
        told = [*(_IN_WORDS[name] for name in others), *names]
        one = len(told) == 1 and others not in (["flags"], ["warning_filters"])
        warn_not_taken_over(
            f"{', '.join(told)}: {'differs' if one else 'differ'} from what the run was first "
            "submitted with, which its workers keep"
        )


_IN_WORDS = {  # what is compared, and what a user calls it
    "flags": "interpreter options",
    "recursion_limit": "recursion limit",
    "start_method": "start method of multiprocessing",
    "locale": "locale",
    "warning_filters": "warnings filters",
}


def warn_not_taken_over(message: str) -> None:
    """Warn at the user's call, or, where another thread makes it, at no line of any code."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in _NOT_THE_USERS:
        frame = frame.f_back
    place = ("<espnet3>", 0) if frame is None else (frame.f_code.co_filename, frame.f_lineno)
    warnings.warn_explicit(message, NotTakenOver, *place)


_NOT_THE_USERS = ("espnet3", "asyncio", "concurrent", "threading")
