"""A list of runs on a terminal: no row takes a second line, whatever a run is called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest

from espnet3.cli.run_rows import age_in_words, documents, size_in_words, table
from espnet3.status.run_list import ListedRun

CREATED = datetime.now(UTC) - timedelta(hours=5)
RUNS = [
    ListedRun("/shared/runs/decode", "done", "", CREATED, 4, 4, 1000, 1000, 123456789),
    ListedRun(f"/shared/{'deep/' * 60}last", "unfinished", "", CREATED, 1, 4, 250, 1000, 5),
    ListedRun("/shared/\x1b[31mred\nline", "unreadable", "run.json: is\nno JSON " * 40),
    ListedRun("/shared/large", "done", "", CREATED, 4, 4, 9, 9, 10**12, size_is_whole=False),
]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_row_is_wider_than_the_terminal(width: int) -> None:
    lines = [click.unstyle(line) for line in table(RUNS, width, 20)]
    assert len(lines) == 5
    assert all(len(line) <= max(width, 55) for line in lines), lines
    assert lines[0].split() == ["state", "items", "age", "size", "run"]
    assert "\x1b" not in "".join(lines)
    assert lines[2].endswith("deep/last")


@pytest.mark.parametrize("problem", ["no JSON: {}/x: is torn " * 9, "{}/run.json: is torn " * 9])
@pytest.mark.parametrize(
    "name", ["decode", "a-rather-long-name-of-a-run-42", "deep/" * 30 + "last"]
)
def test_the_path_of_a_run_that_cannot_be_read_stays(problem: str, name: str) -> None:
    run_dir = f"/shared/{name}"
    run = ListedRun(run_dir, "unreadable", problem.replace("{}", run_dir))
    [_, line] = [click.unstyle(line) for line in table([run], 80, 20)]
    assert len(line) <= 80
    if len(name) > 20:  # that leaves no room for words
        assert line.endswith("deep/last" if len(name) > 80 else f"  {run_dir}")
    else:
        assert f"  {run_dir}: {'run.json' if 'run.json' in problem else 'no JSON'}" in line
        assert line.endswith("…")
    assert f"{name}: " in click.unstyle(table([run], 300, 20)[1])


def test_words(capsys: pytest.CaptureFixture[str]) -> None:
    [_, done, *_, large] = [click.unstyle(line) for line in table(RUNS, 200, 20)]
    assert done.split() == ["done", "1000", "of", "1000", "5", "h", "123.5", "MB", RUNS[0].run_dir]
    assert "> 1.0 TB" in large
    assert click.unstyle(table(RUNS, 80, 2)[-1]) == "and 2 more, in `espnet3 list | less`"
    assert documents(RUNS)[0]["created"] == CREATED.isoformat()
    assert documents(RUNS)[2]["created"] is None
    assert (age_in_words(59), age_in_words(86400 * 800)) == ("59 s", "2 y")
    assert size_in_words(0) == "0 bytes"
