"""Commands that were given a folder of runs, such as the output folder of several test sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from espnet3.cli import show
from espnet3.cli.options import DONE, NOT_COMPLETE
from espnet3.errors import EspnetError, UsageError
from espnet3.run_dir.finding import named, run_dirs_in, stands_in
from espnet3.text import one_line


def runs_of(run_dir: str) -> list[str]:
    """The runs that a command is for: those in a folder of runs, else what was given."""
    return run_dirs_in(run_dir) or [run_dir]


def own_runs_of(run_dir: str) -> list[str]:
    """As `runs_of`, for a command that changes runs: none to which a link leads out of the folder.

    Those are others' perhaps. It is said of each, but where there is no other one: whoever opens
    the folder names them.
    """
    found = run_dirs_in(run_dir)
    own = [each for each in found if stands_in(each, run_dir)]
    for each in found if own else ():
        if each not in own:
            place = one_line(os.path.realpath(each), 10_000)
            show.problem(f"{each}: leads to {place}, which is left alone; name it if it is meant")
    return own or [run_dir]


def the_run_of(run_dir: str) -> str:
    """The one run in a folder, else what was given: whoever opens it says what is wrong with it."""
    return _one_of(runs_of(run_dir), run_dir)


def the_own_run_of(run_dir: str) -> str:
    """As `the_run_of`, for a command that changes the run."""
    return _one_of(own_runs_of(run_dir), run_dir)


def _one_of(found: list[str], run_dir: str) -> str:
    return found[0] if len(found) == 1 else run_dir


def require_one(run_dir: str, what: str) -> None:
    """Refuse a folder of several runs.

    Args:
        run_dir: as given.
        what: what is for one run only.

    Raises:
        UsageError: it is one; names the runs.
    """
    if len(found := run_dirs_in(run_dir)) > 1:
        problem = f"holds several runs, and {what} is for one: name one of {named(found)}"
        raise UsageError(f"{run_dir}: {problem}")


def show_status(run_dirs: list[str], *, as_json: bool) -> int:
    """Show several runs as `list --ask` does, with items that failed or were skipped.

    Returns:
        The exit code: 0 where all are sound.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import run_rows
    from espnet3.status.run_list import see_runs

    with show.waiting("looking"):
        found = run_blocking(see_runs(run_dirs))
    if as_json:
        show.json_document({"runs": run_rows.seen_documents(found)})
    else:
        run_rows.show_runs([each.listed for each in found])
        if show.on_terminal():
            show.lines([("next", run_rows.next_steps(found))])
    return DONE if all(run_rows.needs_nobody(each) for each in found) else NOT_COMPLETE


def each_run(
    run_dirs: Sequence[str], deed: Callable[[str], tuple[int, Any]], *, as_json: bool = False
) -> int:
    """Do something to each of some runs; where one refuses it, the others come all the same.

    Args:
        run_dirs: the runs.
        deed: returns the exit code for a run, and its JSON document.
        as_json: print the document of the one run, or `runs` with those of several.

    Returns:
        The worst exit code; what refuses is a line on standard error.
    """
    worst, documents = DONE, []
    for each in run_dirs:
        try:
            code, document = deed(each)
        except EspnetError as error:
            code = show.refused(error, each if len(run_dirs) > 1 else "")
        else:
            documents.append(document)
        worst = max(worst, code)
    if as_json and len(run_dirs) > 1:
        show.json_document({"runs": documents})
    elif as_json and documents:
        show.json_document(documents[0])
    return worst
