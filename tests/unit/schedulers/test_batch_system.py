"""The engine below the dialects: real commands, whose answers it hands to a dialogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from espnet3.errors import SchedulerUnavailable
from espnet3.schedulers.base import TaskState
from espnet3.schedulers.batch_system import BatchSystem
from espnet3.schedulers.dialect import Dialect, Dialogue, JobParts, JobRequest, Task, asking
from espnet3.schedulers.job_keys import JobKeys, Row
from espnet3.specs.models import AcceptedJob
from tests.support.asking import entry


class Toy(Dialect):
    """A batch system with the least that one needs."""

    name = "toy"
    inherited = ("TOY_",)
    kept = frozenset({"TOY_SERVER"})
    version_command = ("toyq", "--version")

    def task(self, environ: Mapping[str, str]) -> Task:
        return Task(int(environ["TOY_INDEX"]), environ["TOY_JOB"])

    def request(self, request: JobRequest) -> JobParts:
        return JobParts(["--name", request.job.name])

    def job_ids(self, output: str) -> list[str]:
        return output.split()

    def look(self, keys: JobKeys) -> Dialogue[list[Row]]:
        try:
            yield from asking("toyq-of-another-site")
        except SchedulerUnavailable:
            answer = yield from asking("toyq")
        rows = [line.split() for line in answer.out.splitlines()]
        return [
            Row(job_id, TaskState("queued", "", word), name, indices=index)
            for job_id, index, name, word in rows
        ]

    def cancel(self, job_ids: Sequence[str]) -> Dialogue[None]:
        yield from asking("toydel", *job_ids)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def command(folder: Path, name: str, script: str, mode: int = 0o755) -> None:
    """Make a program."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(mode)


async def test_query_find_and_reasons_come_from_one_look(there: Path) -> None:
    command(there, "toyq", "echo '7 0 a full'; echo '7 1 a held'; echo '8 0 b full'")
    toy = BatchSystem(Toy())
    known = entry(("a", 2, "7"), ("b", 2, None), scheduler="toy")
    assert await toy.query([known]) == {
        (1, 0): TaskState("queued", "", "full"),
        (1, 1): TaskState("queued", "", "held"),
        (1, 2): TaskState("queued", "", "full"),
    }
    assert await toy.find(known.submission.jobs, "me") == [
        AcceptedJob(name="a", job_id="7"),
        AcceptedJob(name="b", job_id="8"),
    ]
    assert await toy.reasons(["7"]) == "full, held"


@pytest.mark.parametrize(
    ("script", "mode", "words"),
    [
        ("exit 3", 0o755, "exit code 3"),
        ("echo no server >&2; exit 1", 0o755, "no server"),
        ("echo", 0o644, "toyq: Permission denied"),
    ],
)
async def test_a_command_that_fails(there: Path, script: str, mode: int, words: str) -> None:
    command(there, "toyq", script, mode)
    with pytest.raises(SchedulerUnavailable, match=words):
        await BatchSystem(Toy()).query([entry(("a", 2, "7"), scheduler="toy")])


async def test_a_command_that_is_not_there(there: Path) -> None:
    with pytest.raises(SchedulerUnavailable, match="toydel is not on this host's PATH"):
        await BatchSystem(Toy()).cancel([AcceptedJob(name="a", job_id="7")])


async def test_commands_are_run_without_an_enclosing_job(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOY_SERVER", "x")
    monkeypatch.setenv("TOY_JOB", "9")
    command(there, "toyq", 'echo "1.0$TOY_SERVER$TOY_JOB"')
    assert await BatchSystem(Toy()).version() == "1.0x"
