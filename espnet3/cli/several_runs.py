"""Commands that were given a folder of runs, such as the output folder of several test sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from espnet3.cli import show
from espnet3.cli.options import DONE, NOT_COMPLETE
from espnet3.errors import UsageError
from espnet3.run_dir.finding import named, run_dirs_in


def runs_of(run_dir: str) -> list[str]:
    """The runs that a command is for: those in a folder of runs, else what was given."""
    return run_dirs_in(run_dir) or [run_dir]


def the_run_of(run_dir: str) -> str:
    """The one run in a folder, else what was given: whoever opens it says what is wrong with it."""
    found = runs_of(run_dir)
    return found[0] if len(found) == 1 else run_dir


def of_one_run(words: Sequence[str]) -> tuple[str, ...]:
    """The same words; a folder with one run in it, as the first of them, is that run then."""
    return (the_run_of(words[0]), *words[1:])


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
    """Show several runs as `list` does, with what is queued and running.

    Returns:
        The exit code: 0 where all are done.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import run_rows
    from espnet3.status.run_list import list_runs

    with show.waiting("looking"):
        found = run_blocking(list_runs(run_dirs, ask=True))
    if as_json:
        show.json_document({"runs": run_rows.documents(found)})
    else:
        run_rows.show_runs(found)
    return DONE if all(run.state == "done" for run in found) else NOT_COMPLETE


def show_documents(documents: Sequence[Any]) -> None:
    """Print the JSON document of a run, or `runs` with those of several."""
    show.json_document(documents[0] if len(documents) == 1 else {"runs": documents})
