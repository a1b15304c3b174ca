"""Runs as people and programs see them: a row for each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from espnet3.cli import show
from espnet3.status.run_list import ListedRun, SeenRun
from espnet3.text import one_line, visible

_HEADERS = ("state", "items", "age", "size", "run")
_LEFT = ("<", ">", ">", ">", "<")
_LEAST_PROBLEM = 12  # cells, of which two are in front of it; fewer say nothing
_FEWEST = 10  # rows on a terminal, however low it is
_COLOURS = {"done": "green", "running": "cyan", "queued": "yellow", "unreadable": "red"}
_COLOURS |= {"failed": "red", "lost": "magenta", "interrupted": "yellow"}
_MOST_NEXT = 5  # runs of which it is said what to type
_UNITS = (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("min", 60))  # seconds


def documents(runs: Sequence[ListedRun]) -> list[dict[str, Any]]:
    """`runs` of `list --json`; times in UTC."""
    return [
        {
            **run._asdict(),
            "created": None if run.created is None else run.created.astimezone(UTC).isoformat(),
        }
        for run in runs
    ]


def seen_documents(runs: Sequence[SeenRun]) -> list[dict[str, Any]]:
    """`runs` of `status --json` for a folder of several."""
    found = documents([run.listed for run in runs])
    for document, run in zip(found, runs, strict=True):
        document["sound"] = run.status is not None and run.status.sound
        if run.status is not None:
            document["failed_items"] = run.status.failed_items
            document["skipped_items"] = run.status.skipped_items
            document["merged"] = run.status.merged
    return found


def needs_nobody(run: SeenRun) -> bool:
    """Whether a run is as it should be, and so ends `status` with exit code 0."""
    return run.status is not None and run.status.needs_nobody


def next_steps(runs: Sequence[SeenRun]) -> list[str]:
    """The commands that help now: what tells more of a run, or merges what nobody has merged."""
    found = [run.status for run in runs if run.status is not None]
    needy = [("status", seen.run_dir) for seen in found if not (seen.needs_nobody or seen.live)]
    whole = [seen for seen in found if seen.needs_nobody and seen.merges and not seen.live]
    needy += [("collect", seen.run_dir) for seen in whole if not seen.merged]
    return [show.command(*words) for words in needy[:_MOST_NEXT]]


def show_runs(runs: Sequence[ListedRun]) -> None:
    """Print them: a table on a terminal, lines with tabs in a pipe."""
    if show.on_terminal():
        size = shutil.get_terminal_size()
        for line in table(runs, size.columns, max(_FEWEST, size.lines - 3)):
            click.echo(line)
        return
    for run in runs:
        created = "" if run.created is None else run.created.astimezone(UTC).isoformat()
        cells = [run.state, str(run.items_done), str(run.n_items), created, str(run.size)]
        problem = [one_line(run.problem)] if run.problem else []
        show.say("\t".join([*cells, one_line(run.run_dir, 10_000), *problem]))


def table(runs: Sequence[ListedRun], width: int, most: int) -> list[str]:
    """The lines of a table in which none takes a second line; a long path loses its beginning.

    What is wrong with a run has the room that its path leaves.

    Args:
        runs: in their order.
        width: of the terminal.
        most: how many rows there may be.
    """
    now = datetime.now(UTC)
    here = os.getcwd()
    rows = [_cells(run, now, here) for run in runs[:most]]
    widths = [max(map(len, column)) for column in zip(_HEADERS, *rows, strict=True)]
    room = max(10, width - sum(widths[:-1]) - 2 * (len(widths) - 1))
    lines = [click.style(_line(_HEADERS, widths, room), dim=True)]
    for run, row in zip(runs, rows, strict=False):
        text = _line(row, widths, room, _problem(run))
        colour = _COLOURS.get(run.state)
        state = click.style(text[: widths[0]], fg=colour) if colour else text[: widths[0]]
        lines.append(state + text[widths[0] :])
    if len(runs) > most:
        lines.append(
            click.style(f"and {len(runs) - most} more, in `espnet3 list | less`", dim=True)
        )
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], room: int, problem: str = "") -> str:
    pairs = zip(cells[:-1], widths, _LEFT, strict=False)
    last = cells[-1] if len(cells[-1]) <= room else f"…{cells[-1][1 - room :]}"
    if problem and len(last) + _LEAST_PROBLEM <= room:
        last = one_line(f"{last}: {problem}", room)
    return "  ".join([*(f"{cell:{side}{width}}" for cell, width, side in pairs), last])


def _cells(run: ListedRun, now: datetime, here: str) -> tuple[str, ...]:
    path = run.run_dir
    if path.startswith(f"{here}/"):
        path = os.path.relpath(path, here)
    shown = visible(one_line(path, 10_000))
    items = f"{run.items_done} of {run.n_items}" if run.n_items else "-"
    age = "-" if run.created is None else age_in_words((now - run.created).total_seconds())
    return run.state, items, age, size_in_words(run.size, is_whole=run.size_is_whole), shown


def _problem(run: ListedRun) -> str:
    """What is wrong with a run, whose path stands before it already."""
    return one_line(run.problem, 10_000).removeprefix(run.run_dir).lstrip("/: ")


def age_in_words(seconds: float) -> str:
    """How old something is, in its largest unit.

    >>> age_in_words(7300), age_in_words(86400 * 12), age_in_words(-5)
    ('2 h', '12 d', '0 s')
    """
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def size_in_words(size: int, *, is_whole: bool = True) -> str:
    """Bytes for a person.

    >>> size_in_words(1234567), size_in_words(10, is_whole=False)
    ('1.2 MB', '> 10 bytes')
    """
    from rich.filesize import decimal

    return decimal(size) if is_whole else f"> {decimal(size)}"
