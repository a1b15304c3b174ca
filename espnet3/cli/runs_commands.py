"""The commands about whole runs: which there are, and removing one.

Each imports what it needs when it runs, so that `espnet3 --help` costs nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from espnet3.cli import options
from espnet3.cli.completion import FOLDER
from espnet3.cli.options import DONE, NOT_COMPLETE
from espnet3.cli.sections import Command, Section
from espnet3.errors import UsageError

if TYPE_CHECKING:
    from espnet3.run_dir.trust import Trust


@click.command("list", cls=Command, section=Section.LOOK)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=FOLDER)
@click.option("--ask", is_flag=True, help="Ask the schedulers what is queued and running.")
@options.as_json
def list_runs(folders: tuple[str, ...], ask: bool, as_json: bool) -> int:
    """Show which runs there are: state, items, age and size.

    DIR is a run directory, or a folder or URL that some are in, directly or as espnet3_run in a
    folder of their own; without one it is . and espnet3_runs. The newest comes first. What is alive
    is not known without --ask. In a pipe: a line for each run with state, items done, items, time
    of its plan in UTC, bytes and run directory, separated by tabs.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import run_rows, show
    from espnet3.status.run_list import USUAL
    from espnet3.status.run_list import list_runs as look

    with show.waiting("looking"):
        found = run_blocking(look(folders or None, ask=ask))
    if as_json:
        show.json_document({"runs": run_rows.documents(found)})
    elif found:
        run_rows.show_runs(found)
    elif show.on_terminal():
        show.say(f"no run in {' and '.join(folders or USUAL)}")
    return DONE


@click.command(cls=Command, section=Section.AROUND)
@options.run_dir
@click.option("--cancel", is_flag=True, help="Cancel it first, and wait until nothing of it lives.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--all", "everything", is_flag=True, help="Also files that are not the run's own.")
@click.option(
    "--force", is_flag=True, help="Also where no scheduler answers, to tell what is alive."
)
@options.trust
@options.as_json
def remove(
    run_dir: str,
    cancel: bool,
    yes: bool,
    everything: bool,
    force: bool,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Remove a run's directory, with its results.

    What is alive is not removed, nor files that are not the run's own; what links lead to stays.
    Where it was cut short, the same call goes on.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.run import Run
    from espnet3.submit.removal import require_removable

    run = Run(run_dir, trust=trust)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{run.run_dir}: nobody can be asked here; to remove it, say --yes")
        words = run_blocking(
            require_removable(
                run.run_dir, cancel=cancel, everything=everything, force=force, trust=trust
            )
        )
        show.say(words, err=True)
        if not click.confirm("Remove it?", err=True):
            return NOT_COMPLETE
    with show.waiting("removing"):
        removed = run.remove(cancel=cancel, everything=everything, force=force)
    if as_json:
        show.json_document(
            {"run_dir": removed.run_dir, "files": removed.files, "cancelled": removed.cancelled}
        )
        return DONE
    if removed.cancelled:
        show.lines([("cancelled", " ".join(removed.cancelled))])
    show.lines([("removed", removed.run_dir), ("files", str(removed.files))])
    return DONE
