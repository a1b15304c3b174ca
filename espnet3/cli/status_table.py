"""The state of a run on a terminal, with colours; imported only where there is one.

Counts stand on top, no line takes a second row but for commands to copy, and all of it fits on the
terminal: what there is no room for is counted.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from espnet3.cli.shard_groups import Group as Alike
from espnet3.cli.shard_groups import groups_of, next_steps, ranks_in_words
from espnet3.cli.shard_logs import ShardLog, ShardLogs
from espnet3.cli.status_lines import Follower, finishing_lines, shard_counts
from espnet3.status.run_status import RunStatus, State
from espnet3.text import duration, one_line, visible_line

_BAR = 40  # cells
_RANKS = 24  # cells, for the shards of a row
_LEAST_ROWS = 3
_PROMPT = 2  # rows of a terminal for the command and for what comes after it
_WAVES = 4  # lines about a run that finishes itself
_STYLES = {
    "done": "green",
    "running": "cyan",
    "queued": "blue",
    "pending": "bright_black",
    "interrupted": "yellow",
    "failed": "red",
    "lost": "magenta",
}


class _Paper(NamedTuple):
    """What can be written on: how wide and high it is, and what stands for more."""

    width: int
    height: int
    dots: str

    @classmethod
    def of(cls, console: Console) -> _Paper:
        utf8 = console.encoding.startswith("utf")
        return cls(console.width, console.height, "…" if utf8 else "...")

    def line(self, *parts: str | tuple[str, str] | Text) -> Text:
        """One row, cut at the end where it is too long."""
        text = Text.assemble(*parts, no_wrap=True, overflow="crop")
        if text.cell_len > self.width:
            text.truncate(max(0, self.width - len(self.dots)))
            text.rstrip()
            text.append(self.dots)
        return text

    def tail(self, text: str, style: str) -> Text:
        """One row, cut at the beginning, as a path may be."""
        if len(text) > self.width:
            text = self.dots + text[len(text) - self.width + len(self.dots) :]
        return self.line((text, style))

    def packed(self, parts: Iterable[tuple[str, str]]) -> list[Text]:
        """Words with their styles and commas between, on as many rows as they need."""
        rows: list[Text] = []
        for words, style in parts:
            if rows and rows[-1].cell_len + 2 + len(words) < self.width:
                rows[-1].append(", ").append(words, style)
            else:
                if rows:
                    rows[-1].append(",")
                rows.append(Text().append(words, style))
        return [self.line(row) for row in rows]

    def sentence(self, words: str, style: str) -> list[Text]:
        """A sentence on two rows at most."""
        rows = textwrap.wrap(one_line(words), self.width, max_lines=2, placeholder=self.dots)
        return [self.line((row, style)) for row in rows]


def status(seen: RunStatus, console: Console | None = None) -> None:
    """Print the state of a run: a bar, the counts, the shards that are not done, what to do."""
    console = console or Console(highlight=False)
    paper = _Paper.of(console)
    width = max(1, min(_BAR, paper.width - len(" 100 %")))
    drawn = paper.line(bar(seen, console.encoding, width), f" {percent(seen)}")
    for row in screen(seen, paper, drawn, ShardLogs()):
        console.print(row, soft_wrap=True)


def screen(
    seen: RunStatus, paper: _Paper, drawn: RenderableType, logs: ShardLogs
) -> list[RenderableType]:
    """All of it, as rows."""
    top: list[RenderableType] = [paper.tail(visible_line(seen.run_dir), "bold"), drawn]
    top += paper.packed((words, style_of(state)) for words, state in shard_counts(seen))
    wrong = ((words, style_of("failed")) for words in seen.items_in_words())
    top += paper.packed([*((words, "") for words in seen.progress_in_words()), *wrong])
    if seen.scheduler_problem:
        top += paper.sentence(seen.scheduler_problem, "yellow")
    top += [paper.line((line, "dim")) for line in finishing_lines(seen)[-_WAVES:]]
    if seen.changed_sources:
        top += paper.sentence(seen.sources_in_words(), "yellow")
    alike, left_out = groups_of(seen)
    steps = [Text.assemble(("next  ", "dim"), visible_line(s)) for s in next_steps(seen, alike)]
    below = sum(-(-step.cell_len // paper.width) for step in steps)
    room = max(_LEAST_ROWS, paper.height - len(top) - below - _PROMPT)
    return [*top, *_rows(seen, paper, alike, left_out, room, logs), *steps]


def _rows(
    seen: RunStatus,
    paper: _Paper,
    alike: Sequence[Alike],
    left_out: int,
    room: int,
    logs: ShardLogs,
) -> list[RenderableType]:
    """A row for each group of shards, and what is known of a failure's log below."""
    if not alike:
        return []
    found = logs.of(seen, (group.first for group in alike[:room]))
    shown = [ranks_in_words(group.ranks, _RANKS, paper.dots) for group in alike[:room]]
    ranks = max(len("shards"), *map(len, shown))
    states = max(len("state"), *(len(group.state) for group in alike[:room]))
    rows: list[RenderableType] = [
        paper.line((f"{'shards':<{ranks}}  {'state':<{states}}  cause", "dim"))
    ]
    n_shards = sum(len(group.ranks) for group in alike) + left_out
    for words, group in zip(shown, alike, strict=False):
        cause = group.cause.removeprefix("forward failed at ").replace("…", paper.dots)
        state = (f"{group.state:<{states}}", style_of(group.state))
        block = [paper.line(f"{words:<{ranks}}  ", state, f"  {cause}" if cause else "")]
        block += _log_rows(seen, paper, found.get(group.first.rank), " " * (ranks + states + 4))
        rest = n_shards - len(group.ranks)
        if len(rows) + len(block) + (rest > 0) > room:
            block = block[:1]
        if len(rows) + len(block) + (rest > 0) > room:
            break
        rows += block
        n_shards = rest
    return [*rows, *([paper.line((f"and {n_shards} more", "dim"))] if n_shards else [])]


def _log_rows(seen: RunStatus, paper: _Paper, log: ShardLog | None, indent: str) -> list[Text]:
    if log is None:
        return []
    rows = [paper.line((f"{indent}its log ends: {log.end}", "dim"))] if log.end else []
    path = visible_line(log.path)
    if len(indent) + len("log ") + len(path) > paper.width:
        within = os.path.relpath(log.path, seen.run_dir)
        path = visible_line(log.path if within.startswith("..") else within)
    return [paper.line((f"{indent}log {path}", "dim")), *rows]


def bar(seen: RunStatus, encoding: str = "utf-8", width: int = _BAR) -> Text:
    """A bar in which each state has its share of the items.

    A state that occurs has one cell at least. What is done is drawn thicker, since there may be no
    colours.
    """
    thick, thin = "━─" if encoding.startswith("utf") else "=-"
    counts = seen.counts()
    shares: dict[State, float] = {**counts}
    if seen.progress.done:
        open_shards = len(seen.shards) - counts.get("done", 0)
        each = (seen.n_items - seen.progress.done) / max(1, open_shards)
        shares = {state: each * n for state, n in counts.items()}
        shares = {**shares, "done": seen.progress.done}
    total = sum(shares.values())
    cells = {state: max(1, int(n * width / total)) for state, n in shares.items()}
    widest = max(cells, key=lambda state: cells[state])
    cells[widest] += width - sum(cells.values())
    drawn = (((thick if state == "done" else thin) * n, state) for state, n in cells.items())
    return Text.assemble(*((text, style_of(state)) for text, state in drawn))


def percent(seen: RunStatus) -> str:
    """How many of 100 items are done, of shards where nothing is known of items."""
    done, total = seen.progress.done, seen.n_items
    if not done:
        done, total = seen.counts().get("done", 0), len(seen.shards)
    return f"{100 * done // max(1, total)} %"


def style_of(state: str) -> str:
    """The colour of a state."""
    return _STYLES.get(state, "")


class LiveFollower(Follower):
    """A screen that follows the run."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self._console = console or Console(highlight=False)
        utf8 = self._console.encoding.startswith("utf")
        self._spinner = Spinner("dots" if utf8 else "line")
        self._began = time.monotonic()
        self._seen: RunStatus | None = None
        self._rows: tuple[object, list[RenderableType]] = (None, [])
        self._shard_logs = ShardLogs()
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=8)

    def __enter__(self) -> LiveFollower:
        self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._live.stop()

    def look_at_logs(self, seen: RunStatus) -> None:
        self._screen(seen)

    def _screen(self, seen: RunStatus) -> list[RenderableType]:
        """The rows for a status and a size of the terminal, made once."""
        paper = _Paper.of(self._console)
        made_for, rows = self._rows
        if made_for != (id(seen), paper):
            rows = screen(seen, paper, "", self._shard_logs)
            self._rows = (id(seen), paper), rows
        return rows

    def _render(self) -> RenderableType:
        seen = self._seen
        if seen is None:
            return self._spinner
        width = max(10, min(_BAR, self._console.width // 2))
        line = Table.grid(padding=(0, 1))
        line.add_row(
            self._spinner if seen.live else "",
            bar(seen, self._console.encoding, width),
            percent(seen),
            Text(f" watched for {duration(time.monotonic() - self._began)}", "dim"),
        )
        first, _, *others = self._screen(seen)
        return Group(first, line, *others)

    def update(self, seen: RunStatus) -> None:
        self._seen = seen
        self._live.refresh()

    def end(self, seen: RunStatus) -> None:
        self._seen = seen
        self._live.stop()  # shows it once more, and leaves it there
