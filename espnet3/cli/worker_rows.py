"""The workers of a run, as people and programs see them: a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from espnet3.cli import show
from espnet3.status.worker_signs import WorkerSign
from espnet3.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

HEADERS = ("worker", "host", "task", "done", "items/s", "last sign", "shard")
_RIGHT = frozenset({"done", "items/s", "shard"})
_HOST = 1  # the column that is cut where a row is too long
_NOTE = "last sign: month-day and time in UTC, by each worker's own clock"


def documents(signs: Sequence[WorkerSign]) -> list[dict[str, Any]]:
    """`workers` of `status --workers --json`; times in UTC by each worker's own clock."""
    return [
        {
            **sign._asdict(),
            "started": sign.started.isoformat(),
            "last_sign": sign.last_sign.isoformat(),
        }
        for sign in signs
    ]


def show_workers(signs: Sequence[WorkerSign]) -> None:
    """Print them: a table on a terminal, lines that begin with `worker` and a tab in a pipe."""
    if show.on_terminal():
        table(signs)
        return
    for sign in signs:
        show.say("\t".join(["worker", *_cells(sign, sign.last_sign.isoformat())]))


def _cells(sign: WorkerSign, last_sign: str) -> tuple[str, ...]:
    at = "ended" if sign.ended else "-" if sign.shard is None else str(sign.shard)
    return (
        sign.worker,
        one_line(sign.host),
        sign.place,
        str(sign.shards_done),
        "-" if sign.items_per_second is None else f"{sign.items_per_second:.3g}",
        last_sign,
        at,
    )


def table(signs: Sequence[WorkerSign], console: Console | None = None) -> None:
    """Print a table in which no row takes a second line; a long host's name is cut."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    if not signs:
        console.print(Text("no worker has left a sign of life: those of a static schedule do not",
                           "dim"))  # fmt: skip
        return
    rows = [_cells(sign, f"{sign.last_sign:%m-%d %H:%M:%S}") for sign in signs]
    widths = [max(map(len, column)) for column in zip(HEADERS, *rows, strict=True)]
    others = sum(widths) - widths[_HOST] + len(HEADERS) - 1
    room = max(len(HEADERS[_HOST]), console.width - others)
    found = Table(box=None, header_style="dim", pad_edge=False)
    for name in HEADERS:
        found.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=True)
    for row in rows:
        host = Text(row[_HOST])
        host.truncate(room, overflow="ellipsis")
        found.add_row(*(host if i == _HOST else Text(cell) for i, cell in enumerate(row)))
    console.print(found)
    console.print(Text(_NOTE, "dim"))
