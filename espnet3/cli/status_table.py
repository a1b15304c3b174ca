"""The state of a run on a terminal, with colours; imported only where there is one."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from espnet3.cli import show
from espnet3.status.run_status import LIVE, NOT_DONE, RunStatus, ShardStatus, State
from espnet3.text import one_line, visible

_BAR = 40  # cells
_WRONG = 5  # rows below the bar of a run that goes on


def status(seen: RunStatus, console: Console | None = None) -> None:
    """Print the state of a run: a bar, the counts, and the shards that are not done."""
    console = console or Console(highlight=False)
    console.print(Text(visible(seen.run_dir), "bold"), soft_wrap=True)
    console.print(Text.assemble(bar(seen, console.encoding), "  ", counts(seen)))
    for part in _rest(seen, NOT_DONE, show.ROWS):
        console.print(part)


def _rest(seen: RunStatus, states: Container[State], rows: int) -> list[RenderableType]:
    """What stands below the counts: the first shards in some states."""
    parts: list[RenderableType] = []
    if seen.scheduler_problem:
        parts.append(Text(one_line(seen.scheduler_problem), "yellow"))
    parts += [Text(line, "dim") for line in show.finishing_lines(seen)]
    if seen.changed_sources:
        parts.append(Text(one_line(seen.sources_in_words()), "yellow"))
    ranks = seen.shards.ranks(states)
    if ranks:
        parts.append(table([seen.shards[rank] for rank in ranks[:rows]]))
    if len(ranks) > rows:
        parts.append(Text(f"and {len(ranks) - rows} more", "dim"))
    return parts


def bar(seen: RunStatus, encoding: str = "utf-8", width: int = _BAR) -> Text:
    """A bar in which each state has its share; a state that occurs has one cell at least."""
    cell = "━" if encoding.startswith("utf") else "="
    found, total = seen.counts(), len(seen.shards)
    cells = {state: max(1, n * width // total) for state, n in found.items()}
    widest = max(cells, key=lambda state: cells[state])
    cells[widest] += width - sum(cells.values())
    return Text.assemble(*((cell * n, show.style_of(state)) for state, n in cells.items()))


def counts(seen: RunStatus) -> Text:
    """The counts, each in the colour of its state."""
    found = seen.counts()
    done = (f"{found.get('done', 0)} of {len(seen.shards)} done", show.style_of("done"))
    others = ((f"{n} {state}", show.style_of(state)) for state, n in found.items()
              if state != "done")  # fmt: skip
    wrong = ((words, show.style_of("failed")) for words in seen.items_in_words())
    return Text(", ").join(Text(*part) for part in (done, *others, *wrong))


def table(shards: Sequence[ShardStatus]) -> Table:
    """A table of shards."""
    found = Table(box=None, header_style="dim", pad_edge=False)
    found.add_column("shard", justify="right")
    found.add_column("state")
    found.add_column("task")
    found.add_column("cause", overflow="fold")
    for shard in shards:
        task = "" if shard.submission is None else f"{shard.submission:04d}/{shard.task}"
        found.add_row(
            str(shard.rank),
            Text(shard.state, show.style_of(shard.state)),
            task,
            Text(one_line(shard.cause)),
        )
    return found


class LiveFollower(show.Follower):
    """A bar that follows the run, and below it what has gone wrong so far."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)
        utf8 = self._console.encoding.startswith("utf")
        self._spinner = Spinner("dots" if utf8 else "line")
        self._began = time.monotonic()
        self._seen: RunStatus | None = None
        self._ended = False
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8)

    def __enter__(self) -> LiveFollower:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        if self._seen is None:
            return self._spinner
        elapsed = timedelta(seconds=int(time.monotonic() - self._began))
        width = max(10, min(_BAR, self._console.width // 2))
        line = Table.grid(padding=(0, 1))
        line.add_row(
            "" if self._ended else self._spinner,
            bar(self._seen, self._console.encoding, width),
            Text.assemble(counts(self._seen), (f"  {elapsed}", "dim")),
        )
        if self._ended:
            return line
        return Group(line, *_rest(self._seen, NOT_DONE - LIVE, _WRONG))

    def update(self, seen: RunStatus) -> None:
        self._seen = seen
        self._live.refresh()

    def end(self, seen: RunStatus) -> None:
        self._ended = True
        self._live.stop()
        parts = _rest(seen, NOT_DONE, show.ROWS)
        if parts:
            self._console.print(Group(*parts))
        for step in show.next_steps(seen):
            self._console.print(Text.assemble(("next  ", "dim"), visible(step)), soft_wrap=True)
