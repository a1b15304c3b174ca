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


def _usual_depth() -> int:
    from espnet3.status.run_list import DEPTH

    return DEPTH


@click.command("list", cls=Command, section=Section.LOOK)
@click.argument("folders", nargs=-1, metavar="[DIR]...", type=FOLDER)
@click.option("--ask", is_flag=True, help="Ask the schedulers what is queued and running.")
@click.option(
    "--depth",
    type=click.IntRange(min=1),
    default=_usual_depth,
    help="How many folders down to look, and for espnet3_run in the last; 4 where unset.",
)
@options.as_json
def list_runs(folders: tuple[str, ...], ask: bool, depth: int, as_json: bool) -> int:
    """Show which runs there are: state, items, age and size.

    DIR is a run directory, or a folder that some are in, as exp is of
    exp/asr/decode/test_clean/espnet3_run; or a URL, of which only what is directly in it is looked
    at. Without one it is . and espnet3_runs. No link is followed further down, and in large trees
    not all is looked at; a line on standard error says so, and where there is no run. The newest
    comes first. What is alive is not known without --ask. In a pipe: a line for each run with
    state, items done, items, time of its plan in UTC, bytes and run directory, separated by tabs.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import run_rows, show
    from espnet3.status.run_list import USUAL, NotAllLookedAt
    from espnet3.status.run_list import list_runs as look
    from espnet3.text import counted

    with show.waiting("looking"), show.lines_for(NotAllLookedAt):
        found = run_blocking(look(folders or None, ask=ask, depth=depth))
    if as_json:
        show.json_document({"runs": run_rows.documents(found)})
    elif found:
        run_rows.show_runs(found)
    else:
        looked = folders or USUAL
        is_url = any("://" in each for each in looked)
        down = "" if is_url else f", looking {counted(depth, 'folder')} down"
        show.say(f"no run in {' and '.join(looked)}{down}", err=True)
    return DONE


@click.command(cls=Command, section=Section.AROUND)
@options.run_dir
@click.option("--cancel", is_flag=True, help="Cancel it first, and wait until nothing of it lives.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--merged",
    is_flag=True,
    help="Also what merged files may name: that to which split.N of its output folder lead.",
)
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="As --merged, and also files that are not the run's own.",
)
@click.option(
    "--force", is_flag=True, help="Also where no scheduler answers, to tell what is alive."
)
@options.trust
@options.as_json
def remove(
    run_dir: str,
    cancel: bool,
    yes: bool,
    merged: bool,
    everything: bool,
    force: bool,
    trust: Trust | None,
    as_json: bool,
) -> int:
    """Remove a run's directory, with its results.

    What is alive is not removed, nor files that are not the run's own, nor what the runner's own
    hooks have written, once it is merged; what links in it lead to stays. In its output folder
    merged files stay, and links into RUN_DIR go. RUN_DIR is the run's own folder, and not one that
    it is in. Where it was cut short, the same call goes on.
    """
    from espnet3._blocking import run_blocking
    from espnet3.cli import show
    from espnet3.run import Run
    from espnet3.submit.removal import require_removable

    run = Run(run_dir, trust=trust)
    how = {"cancel": cancel, "merged": merged, "everything": everything, "force": force}
    if not yes:
        words = run_blocking(require_removable(run.run_dir, trust=trust, **how))
        if not sys.stdin.isatty():
            raise UsageError(f"{words}; this is not a terminal: say --yes to remove it")
        show.say(words, err=True)
        if not click.confirm("Remove it?", err=True):
            return NOT_COMPLETE
    with show.waiting("removing"):
        removed = run.remove(**how)
    if as_json:
        show.json_document(
            {"run_dir": removed.run_dir, "files": removed.files, "cancelled": removed.cancelled}
        )
        return DONE
    if removed.cancelled:
        show.lines([("cancelled", " ".join(removed.cancelled))])
    show.lines([("removed", removed.run_dir), ("files", str(removed.files))])
    return DONE
