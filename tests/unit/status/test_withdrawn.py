"""What is said of a shard whose receipt was withdrawn."""

from __future__ import annotations

from typing import Any

import pytest

from espnet3.schedulers.base import TaskState
from espnet3.schedulers.task_states import TaskStates
from espnet3.specs.layout import AttemptFile
from espnet3.specs.models import AttemptRecord
from espnet3.status.evidence import Evidence
from espnet3.status.run_status import ShardStatus
from espnet3.status.shard_states import shard_states
from tests.unit.status.test_shard_states import record, submission

OLD = record("started", number=1)
NEW = record("started", number=2, minutes=5, generation=2)
RUNNING = TaskState("running", "RUNNING", "")


def state(records: list[AttemptRecord], n: int, tasks: dict[Any, TaskState]) -> ShardStatus:
    by_file = {AttemptFile(r.rank, r.attempt, r.event): r for r in records}
    [found] = shard_states(
        Evidence(
            world_size=1, receipts=(), records=by_file,
            submissions=[submission(number) for number in range(1, n + 1)], being_submitted=(),
            cancelled=(), tasks=TaskStates(tasks), withdrawn={0: 2},
        )
    )  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("records", "n", "tasks", "expected"),
    [
        ([OLD], 1, {}, ("pending", "its receipt was withdrawn", 1)),
        ([], 0, {}, ("pending", "its receipt was withdrawn", None)),
        # An old copy lives: it will find its receipt taken.
        ([OLD], 1, {(1, 0): RUNNING}, ("pending", "its receipt was withdrawn", 1)),
        ([OLD, NEW], 2, {(2, 0): RUNNING}, ("running", "since 2026-01-02 03:09 on node7", 2)),
        ([OLD, NEW], 2, {}, ("lost", None, 2)),
        # A task of before that has not had its turn will see the withdrawal.
        ([], 1, {(1, 0): TaskState("queued", "PENDING", "Resources")}, ("queued", None, 1)),
        # A requeue of an old task after the withdrawal is an attempt like any other.
        (
            [OLD, record("started", number=1, token="b", generation=2)],
            1,
            {(1, 0): RUNNING},
            ("running", None, 1),
        ),
    ],
)
def test_only_what_came_after_the_withdrawal_counts(
    records: list[AttemptRecord], n: int, tasks: Any, expected: tuple[str, str | None, int | None]
) -> None:
    found = state(records, n, tasks)
    said, cause, number = expected
    assert (found.state, found.submission) == (said, number)
    assert cause is None or found.cause == cause
