"""How a run is shown: on a terminal, in a pipe, or to a program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from espnet3.cli import show, status_lines

if TYPE_CHECKING:
    from espnet3.status.run_status import RunStatus


def status(seen: RunStatus) -> None:
    """Print the state of a run."""
    if show.on_terminal():
        from espnet3.cli import status_table

        status_table.status(seen)
    else:
        status_lines.status_lines(seen)


def follower(*, as_json: bool = False) -> status_lines.Follower:
    """The follower for where standard output goes, or for a program."""
    if as_json:
        return status_lines.JsonFollower()
    if not show.on_terminal():
        return status_lines.Follower()
    from espnet3.cli.status_table import LiveFollower

    return LiveFollower()
