"""The rows of workers: complete for programs, and short enough for 80 columns."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from espnet3.cli import worker_rows
from espnet3.run_dir.directory import RunDirectory
from espnet3.specs import layout
from espnet3.specs.models import ProcessIdentity, WorkerState
from espnet3.status.worker_signs import worker_signs
from espnet3.storage.local import LocalStore

NOON = datetime(2026, 1, 2, 12, 0, 5, tzinfo=UTC)


def say(folder: Path, submission: int, host: str = "node1", **said: Any) -> str:
    """Have a worker give a sign of life."""
    store = LocalStore(str(folder))
    store.prepare([layout.WORKERS])
    name = layout.new_attempt(submission)
    state = {"beat": 1, "task": 0, "job_id": "7", "started": NOON, "time": NOON, **said}
    process = ProcessIdentity(host=host, pid=31, started=0.0, user="me")
    RunDirectory(store).renew(WorkerState(worker=name, process=process, **state))
    return name


def drawn(folder: Path, width: int = 80) -> list[str]:
    file = io.StringIO()
    worker_rows.table(worker_signs(folder), Console(file=file, width=width, highlight=False))
    return file.getvalue().splitlines()


def test_a_row_for_each_by_submission_and_task(tmp_path: Path) -> None:
    at: dict[str, Any] = {"rank": 12, "position": 3, "end": 8, "computed": 3, "seconds": 2.0}
    joined = say(tmp_path, 1, task=None, job_id=None, ended=True, shards_done=4, items_done=20)
    late = say(tmp_path, 2, task=0, time=NOON.astimezone(timezone(timedelta(hours=9))))
    second, first = say(tmp_path, 1, task=1, **at), say(tmp_path, 1, task=0)
    say(tmp_path, 1)
    (tmp_path / layout.worker(say(tmp_path, 1))).write_text("{")  # being written, say
    signs = [
        sign for sign in worker_signs(tmp_path) if sign.worker in (joined, late, second, first)
    ]
    assert [sign.worker for sign in signs] == [first, second, joined, late]
    assert [sign.place for sign in signs] == ["0001/0", "0001/1", "0001/joined", "0002/0"]
    assert len(worker_signs(tmp_path)) == 5
    row = signs[1]
    assert (row.shard, row.position, row.end, row.items_per_second) == (12, 3, 8, 1.5)
    assert (signs[0].shard, signs[0].position, signs[0].items_per_second) == (None, None, None)
    [told] = [each for each in worker_rows.documents(signs) if each["worker"] == late]
    assert json.loads(json.dumps(told))["last_sign"] == "2026-01-02T12:00:05+00:00"
    assert [line.split()[-1] for line in drawn(tmp_path) if joined in line] == ["ended"]


@pytest.mark.parametrize("days", [-400, -1, 0, 1, 400])
def test_a_clock_that_is_wrong_is_shown_as_what_it_is(tmp_path: Path, days: int) -> None:
    say(tmp_path, 1, time=NOON + timedelta(days=days))
    header, row, note = drawn(tmp_path)
    assert f"{NOON + timedelta(days=days):%m-%d %H:%M:%S}" in row
    assert "ago" not in header + row
    assert note == "last sign: month-day and time in UTC, by each worker's own clock"


def test_no_row_wraps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = "gpu-node-with-a-long-name-17.cluster.example.org"
    at: dict[str, Any] = {"rank": 123456, "computed": 123456, "seconds": 1.0, "shards_done": 123456}
    say(tmp_path, 1, host=host, task=None, **at)
    say(tmp_path, 9999, host=f"{host}\n\x1b[2J", task=12345, **at)
    lines = drawn(tmp_path)
    assert len(lines) == 4
    assert all(len(line) <= 80 for line in lines), lines
    assert "gpu-" in lines[1]
    assert host in drawn(tmp_path, 140)[1]
    worker_rows.show_workers(worker_signs(tmp_path))
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], len(row)) for row in rows] == [("worker", 8)] * 2
    assert rows[0][2:] == [
        host, "0001/joined", "123456", "1.23e+05", "2026-01-02T12:00:05+00:00", "123456",
    ]  # fmt: skip


def test_nobody(tmp_path: Path) -> None:
    assert worker_signs(tmp_path) == []
    [line] = drawn(tmp_path)
    assert line.startswith("no worker has left a sign of life")
